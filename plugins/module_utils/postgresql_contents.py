"""What a PostgreSQL cluster contains, to compare it with its copy in another version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ansible_collections.blueoctopus.site.plugins.module_utils.postgresql import PostgresqlError, psql

DATABASES = "SELECT json_agg(datname ORDER BY datname) FROM pg_database WHERE datallowconn;"
# Exact numbers of rows. Statistics would not tell that rows are missing.
ROWS = """SELECT coalesce(json_object_agg(format('%I.%I', schemaname, tablename), (xpath('/row/n/text()',
    query_to_xml(format('SELECT count(*) AS n FROM %I.%I', schemaname, tablename), false, true, '')))[1]::text), '{}')
  FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema');"""
# Without members of extensions, which differ between their versions, and without invalid indexes, which no dump has.
# The rows of materialized views are not compared: those of the copy are new, and the others as old as the last refresh.
OBJECTS = """WITH own AS (SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'),
    member AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
    relation AS (SELECT * FROM pg_class
      WHERE relnamespace IN (TABLE own) AND ('pg_class'::regclass, oid) NOT IN (TABLE member))
  SELECT json_object_agg(name, value) FROM (
    SELECT 'views', count(*)::text FROM relation WHERE relkind = 'v'
    UNION ALL SELECT 'indexes', count(*)::text FROM pg_index JOIN relation ON relation.oid = indrelid
      WHERE indisready AND (indisvalid OR relkind = 'p')
    UNION ALL SELECT 'functions', count(*)::text FROM pg_proc
      WHERE pronamespace IN (TABLE own) AND ('pg_proc'::regclass, oid) NOT IN (TABLE member)
    UNION ALL SELECT format('extension %I', extname), '' FROM pg_extension
    UNION ALL SELECT format('sequence %s.%I', relnamespace::regnamespace, relname), pg_sequence_last_value(oid)::text
      FROM relation WHERE relkind = 'S'
    UNION ALL SELECT format('materialized view %s.%I', relnamespace::regnamespace, relname), relispopulated::text
      FROM relation WHERE relkind = 'm'
  ) AS found (name, value);"""
# A view comes after those that it uses, as it was created later.
EMPTY_VIEWS = """SELECT coalesce(json_agg(format('%s.%I', relnamespace::regnamespace, relname) ORDER BY oid), '[]')
  FROM pg_class WHERE relkind = 'm' AND NOT relispopulated;"""


@dataclass(frozen=True)
class Contents:
    """What a cluster contains: the results of `rows` and `objects`."""

    rows: dict[str, str]
    objects: dict[str, str | None]

    def missing_in(self, copy: Contents) -> list[str]:
        """The names of what the copy does not have, or has with another value."""
        missing = [name for name, count in self.rows.items() if copy.rows.get(name) != count]
        return missing + [name for name, value in self.objects.items() if copy.objects.get(name, "missing") != value]


def contents(port: int) -> Contents:
    """What the cluster on a port contains."""
    return Contents(rows(port), objects(port))


def rows(port: int) -> dict[str, str]:
    """The number of rows of each table, by the names of database and table; an empty database is listed, too."""
    found = {}
    for database in json.loads(psql(DATABASES, port=port)):
        found[database] = ""
        counts = json.loads(psql(ROWS, database, port))
        found |= {f"{database}: {table}": count for table, count in counts.items()}
    return found


def objects(port: int) -> dict[str, str | None]:
    """The numbers of views, indexes, functions and extensions, the values of sequences, and whether materialized views
    have content, by the names of database and object."""
    found: dict[str, str | None] = {}
    for database in json.loads(psql(DATABASES, port=port)):
        values = json.loads(psql(OBJECTS, database, port))
        found |= {f"{database}: {name}": value for name, value in values.items()}
    return found


def refresh(port: int, before: Mapping[str, str | None]) -> list[str]:
    """Refresh the materialized views that had content before: pg_upgradecluster leaves them without.

    Args:
        port: port of the copy.
        before: what `objects` has returned for the original.

    Returns:
        Those that could not be refreshed, such as one of data on another server. They stay without content.
    """
    left = []
    for database in json.loads(psql(DATABASES, port=port)):
        views = json.loads(psql(EMPTY_VIEWS, database, port))
        due = [view for view in views if before.get(f"{database}: materialized view {view}") == "true"]
        while due:  # a view may use another one that is later in the list
            failed = [view for view in due if not is_refreshed(view, database, port)]
            if failed == due:
                break
            due = failed
        left += [f"{database}: materialized view {view}" for view in due]
    return left


def is_refreshed(view: str, database: str, port: int) -> bool:
    """Refresh a materialized view; return whether that has succeeded."""
    try:
        psql(f"REFRESH MATERIALIZED VIEW {view};", database, port)  # quoted by PostgreSQL itself
    except PostgresqlError:
        return False
    return True
