"""The PostgreSQL databases of the apps: dumps, restores into a new database, and the change of names."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from backups.settings import BackupError

LOCALE = """SELECT pg_encoding_to_char(encoding), datcollate, datctype FROM pg_database WHERE datname = :'name'"""
EXTENSIONS = """SELECT coalesce(json_agg(json_build_array(extname, nspname) ORDER BY pg_extension.oid), '[]')
    FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname <> 'plpgsql'"""
TRUSTED = "SELECT DISTINCT name FROM pg_available_extension_versions WHERE trusted OR NOT superuser"
TABLES = """SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
    WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1"""


def dump_command(name: str) -> list[str]:
    """The command that prints a database in PostgreSQL's custom format; restic compresses it, and finds what is new."""
    return ["pg_dump", "--format=custom", "--compress=0", "--no-password", f"--dbname={name}"]


@dataclass(frozen=True)
class Server:
    """The cluster of this host, reached by its socket, where the user of the system is the one of the database.

    Args:
        user: user to be; the current one when empty.
        role: role to log in as; that of the user when empty.
        socket: folder of its socket; that of the host's cluster when empty.
    """

    user: str = ""
    role: str = ""
    socket: str = ""

    def run(self, *argv: str, text: str = "", file: IO[bytes] | None = None, to: IO[bytes] | None = None) -> str:
        """Run a program of PostgreSQL; its input is a text or an open file. Return its output, unless a file gets it.

        Raises:
            BackupError: when it fails.
        """
        become = ["runuser", "-u", self.user, "--"] if self.user else []
        try:
            given: dict[str, Any] = {"stdin": file} if file else {"input": text}
            login = [f"--username={self.role}"] if self.role else []
            # The owner of a database can set another search path for it, and with it, what the names of functions mean.
            place = {"PGHOST": self.socket} if self.socket else {}
            given["env"] = {**os.environ, "PGOPTIONS": "-c search_path=pg_catalog", **place}
            command = [*become, argv[0], *login, *argv[1:]]
            done = subprocess.run(
                command, stdout=to or subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/", **given
            )
        except FileNotFoundError as error:
            raise BackupError(f"{error.filename} is not installed. Run playbooks/site.yml on this host.") from None
        if done.returncode:
            said = done.stderr.strip()[-800:]
            if re.search(r"could not connect|connection to server", said):
                raise BackupError(
                    f"PostgreSQL can't be reached.\nIs it running? systemctl status 'postgresql@*'\n{said}"
                )
            raise BackupError(f"{argv[0]} failed: {said}")
        return done.stdout or ""

    def sql(self, statement: str, database: str = "postgres", **values: str) -> str:
        """Run statements, with values in place of :'NAME' as texts and :"NAME" as identifiers."""
        variables = [f"--set={name}={value}" for name, value in values.items()]
        options = [
            "--no-psqlrc",
            "--quiet",
            "--no-password",
            "--tuples-only",
            "--no-align",
            "--set=ON_ERROR_STOP=1",
            *variables,
        ]
        return self.run("psql", *options, f"--dbname={database}", "--file=-", text=statement).strip()

    def major(self) -> int:
        """The major version of the cluster."""
        return int(self.sql("SHOW server_version_num")) // 10000

    def exists(self, name: str) -> bool:
        return self.sql("SELECT 1 FROM pg_database WHERE datname = :'name'", name=name) == "1"

    def owner(self, name: str) -> str:
        """The owner of a database; empty when it does not exist."""
        return self.sql("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = :'name'", name=name)

    def named(self, pattern: str) -> list[str]:
        """The databases whose names match a pattern of LIKE."""
        return self.sql("SELECT datname FROM pg_database WHERE datname LIKE :'p' ORDER BY 1", p=pattern).splitlines()

    def extensions(self, name: str) -> dict[str, str]:
        """The extensions of a database, besides the language that each one has, and their schemas.

        An extension comes after those that it needs.
        """
        return dict(json.loads(self.sql(EXTENSIONS, name)))

    def create_extensions(self, name: str, extensions: Mapping[str, str] | list[str], owner: str) -> list[str]:
        """Create extensions in a database, in the schemas of the original; return the schemas that were created."""
        if isinstance(extensions, list):  # of a backup without schemas
            extensions = dict.fromkeys(extensions, "public")
        own = [schema for schema in dict.fromkeys(extensions.values()) if not re.match("pg_|public$", schema)]
        for schema in own:
            self.sql('CREATE SCHEMA :"schema" AUTHORIZATION :"owner"', name, schema=schema, owner=owner)
        for extension, schema in extensions.items():
            create = 'CREATE EXTENSION IF NOT EXISTS :"extension" SCHEMA :"schema" CASCADE'
            self.sql(create, name, extension=extension, schema=schema)
        return own

    def untrusted(self, extensions: Iterable[str]) -> list[str]:
        """Those extensions that only a superuser may create."""
        trusted = self.sql(TRUSTED).splitlines()
        return [extension for extension in extensions if extension not in trusted]

    def create(self, name: str, owner: str, like: str = "") -> None:
        """Create an empty database that only its owner can enter, with the locale of another one."""
        locale = ""
        values = {"name": name, "owner": owner}
        if like and self.exists(like):
            encoding, collate, ctype = self.sql(LOCALE, name=like).split("|")
            locale = "ENCODING :'encoding' LC_COLLATE :'collate' LC_CTYPE :'ctype'"
            values |= {"encoding": encoding, "collate": collate, "ctype": ctype}
        self.sql(f'CREATE DATABASE :"name" OWNER :"owner" TEMPLATE template0 {locale}', **values)
        self.sql('REVOKE ALL ON DATABASE :"name" FROM PUBLIC', name=name)

    def dump(self, name: str, to: Path) -> None:
        """Dump a database into a file, which only this user can read."""
        with os.fdopen(os.open(to, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            self.run(*dump_command(name), to=file)

    def data(self) -> Path:
        """The folder of the cluster."""
        return Path(self.sql("SHOW data_directory"))

    def size(self, name: str) -> int:
        """The bytes of a database."""
        return int(self.sql("SELECT pg_database_size(:'name')", name=name))

    def drop(self, name: str) -> None:
        self.sql('DROP DATABASE IF EXISTS :"name" WITH (FORCE)', name=name)

    def rename(self, old: str, new: str) -> None:
        """Change the name of a database; its connections end."""
        self.sql('ALTER DATABASE :"old" ALLOW_CONNECTIONS false', old=old)
        try:
            self.sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = :'old'", old=old)
            self.sql('ALTER DATABASE :"old" RENAME TO :"new"', old=old, new=new)
            old = new
        finally:
            self.allow_connections(old)

    def allow_connections(self, name: str) -> None:
        self.sql('ALTER DATABASE :"name" ALLOW_CONNECTIONS true', name=name)

    @contextlib.contextmanager
    def member(self, role: str, user: str) -> Iterator[None]:
        """Make a user a member of a role for a while."""
        self.sql('GRANT :"role" TO :"user"', role=role, user=user)
        try:
            yield
        finally:
            self.sql('REVOKE :"role" FROM :"user"', role=role, user=user)

    def let_connect(self, name: str, role: str) -> None:
        """Let a role connect to a database, if both exist."""
        if self.sql("SELECT 1 FROM pg_roles WHERE rolname = :'role'", role=role):
            self.sql('GRANT CONNECT ON DATABASE :"name" TO :"role"', name=name, role=role)

    def has_rows(self, name: str) -> bool:
        """Whether a table of a database has a row."""
        tables = self.sql(TABLES, name).splitlines()
        found = " OR ".join(f"EXISTS (SELECT FROM {table})" for table in tables)
        return bool(tables) and self.sql(f"SELECT {found}", name) == "t"

    def rows(self, name: str) -> tuple[int, int]:
        """The number of tables of a database, and of their rows."""
        tables = self.sql(TABLES, name).splitlines()
        if not tables:
            return 0, 0
        # The names are quoted by PostgreSQL itself.
        counted = self.sql(" UNION ALL ".join(f"SELECT count(*) FROM {table}" for table in tables), name)  # noqa: S608
        return len(tables), sum(map(int, counted.splitlines()))

    def read(self, dump: Path) -> None:
        """Read a dump from its beginning to its end, and load it nowhere."""
        with dump.open("rb") as file:
            self.run("pg_restore", "--file=/dev/null", file=file)

    def load(self, dump: Path, name: str, owner: str = "", schemas: Collection[str] = ()) -> None:
        """Restore a dump into an empty database.

        Args:
            dump: the dump.
            name: the database.
            owner: role of which this user is a member; it owns everything. Extensions exist already. Without it, the
                user owns everything, and creates the extensions too.
            schemas: those that exist already.
        """
        with dump.open("rb") as file:
            contents = self.run("pg_restore", "--list", file=file)
        chosen = [line for line in contents.splitlines() if wanted(line, not owner, schemas)]
        options = ["--no-owner", "--no-privileges", "--exit-on-error", "--no-password", f"--dbname={name}"]
        options += [f"--role={owner}"] if owner else []
        # Not in $TMPDIR, a folder of root alone that libpam-tmpdir creates.
        with tempfile.NamedTemporaryFile("w", dir="/tmp") as listed, dump.open("rb") as file:
            listed.write("\n".join(chosen) + "\n")
            listed.flush()
            if self.user:  # which may not read the files of root
                shutil.chown(listed.name, self.user)
            self.run("pg_restore", *options, f"--use-list={listed.name}", file=file)


def wanted(line: str, extensions: bool, schemas: Collection[str] = ()) -> bool:
    """Whether to restore a line of pg_restore's list. Only the owner of an extension or a schema may comment on it."""
    schema = re.match(r"\d+; \d+ \d+ SCHEMA - (.*) \S*$", line)
    if schema and schema[1] in schemas:
        return False
    if re.match(r"\d+; \d+ \d+ (COMMENT - (EXTENSION|SCHEMA)|SCHEMA - public|ACL|DEFAULT ACL) ", line):
        return False
    return extensions or not re.match(r"\d+; \d+ \d+ EXTENSION ", line)
