"""The databases of the apps, their owners and passwords, on a PostgreSQL server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.postgresql import psql, verifies
from ansible_collections.blueoctopus.site.plugins.modules import postgresql_databases
from modules import call
from postgresql_server import Module, needs_server


@needs_server
def test_a_database_has_an_owner_of_its_name_and_is_created_once(create_databases: Module) -> None:
    entry = {"name": "shop", "extensions": ["pg_trgm"]}
    first, second = create_databases(entry), create_databases(entry)
    assert (first["changed"], second["changed"]) == (True, False), (first, second)
    assert "create the database shop" in first["diff"][0]["after"]
    assert psql("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'shop';") == "shop"
    assert psql("SHOW server_encoding;", "shop") == "UTF8"
    assert psql("SELECT count(*) FROM pg_extension WHERE extname = 'pg_trgm';", "shop") == "1"


@needs_server
def test_check_mode_names_the_steps_and_changes_nothing(create_databases: Module) -> None:
    shown = create_databases({"name": "later", "password": True}, check=True)
    assert shown["names"] == ["later"]
    assert psql("SELECT count(*) FROM pg_database WHERE datname = 'later';") == "0"


@needs_server
def test_another_role_can_not_connect_to_a_database(create_databases: Module) -> None:
    create_databases({"name": "first"}, {"name": "second"})
    allowed = "SELECT has_database_privilege('{}', 'first', 'CONNECT');"
    assert [psql(allowed.format(role)) for role in ("first", "second")] == ["t", "f"]


@needs_server
def test_the_owner_of_a_database_cannot_run_code_as_the_superuser(create_databases: Module) -> None:
    create_databases({"name": "sly"})
    psql(
        "SET ROLE sly; CREATE SCHEMA evil; "
        "CREATE FUNCTION evil.f() RETURNS name LANGUAGE plpgsql AS $$ BEGIN "
        "EXECUTE 'ALTER ROLE sly SUPERUSER'; RETURN 'x'; END $$; "
        "CREATE VIEW evil.pg_extension AS SELECT evil.f() AS extname; "
        "ALTER DATABASE sly SET search_path = evil, pg_catalog;",
        "sly",
    )
    assert create_databases({"name": "sly", "extensions": ["pg_trgm"]})["changed"]
    assert psql("SELECT rolsuper FROM pg_roles WHERE rolname = 'sly';") == "f"
    assert (
        psql(
            "SELECT nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'pg_trgm';",
            "sly",
        )
        == "public"
    )


@needs_server
def test_an_extension_that_is_not_installed_is_named(create_databases: Module) -> None:
    failed = create_databases({"name": "shop", "extensions": ["nonesuch"]})
    assert "could not create the extension nonesuch in shop" in failed["msg"]
    assert "is not available" in failed["msg"]


@needs_server
def test_a_password_is_generated_once_kept_for_root_and_never_sent_to_the_server(
    create_databases: Module, postgresql_server: Path
) -> None:
    psql("ALTER SYSTEM SET log_statement = 'all'; SELECT pg_reload_conf();")
    entry = {"name": "remote", "password": True}
    first, second = create_databases(entry), create_databases(entry)
    path = postgresql_server / "passwords.json"
    password = json.loads(path.read_text())["remote"]
    psql("ALTER SYSTEM RESET log_statement; SELECT pg_reload_conf();")
    assert (first["changed"], second["changed"]) == (True, False)
    assert path.stat().st_mode & 0o777 == 0o600
    assert verifies(psql("SELECT rolpassword FROM pg_authid WHERE rolname = 'remote';"), password)
    assert "ALTER ROLE" in (postgresql_server / "log").read_text()
    assert password not in (postgresql_server / "log").read_text() + json.dumps([first, second])


@needs_server
def test_too_few_connections_are_reported_before_anything_is_created(create_databases: Module) -> None:
    failed = create_databases({"name": "never"}, connections=5000)
    assert "The apps may open 5000 connections to PostgreSQL, but it accepts" in failed["msg"].splitlines()[0]
    assert psql("SELECT count(*) FROM pg_database WHERE datname = 'never';") == "0"


@needs_server
def test_dropping_a_database_drops_its_owner_and_password_and_nothing_else(
    create_databases: Module, postgresql_server: Path
) -> None:
    create_databases({"name": "gone", "password": True}, {"name": "stays"})
    psql('CREATE DATABASE "gone.before-20260102T030405Z" OWNER gone;')  # as a restore keeps the former one
    psql('CREATE DATABASE "gone.undone-20260102T030405Z" OWNER gone;')  # as an undo keeps the restored one
    assert create_databases({"name": "gone"}, state="absent")["changed"]
    assert not create_databases({"name": "gone"}, state="absent")["changed"]
    assert psql("SELECT string_agg(rolname, ',') FROM pg_roles WHERE rolname IN ('gone', 'stays');") == "stays"
    assert psql("SELECT count(*) FROM pg_database WHERE datname LIKE 'gone%';") == "0"
    assert "gone" not in json.loads((postgresql_server / "passwords.json").read_text())


@needs_server
def test_a_database_of_another_owner_is_not_dropped(create_databases: Module) -> None:
    assert (
        "the owner of the database postgres is postgres"
        in create_databases({"name": "postgres"}, state="absent")["msg"]
    )


def test_a_host_without_postgresql_has_nothing_to_drop_and_names_the_playbook_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(postgresql_databases, "cluster_version", lambda: "")
    args: dict[str, Any] = {"databases": [{"name": "shop"}], "passwords": str(tmp_path / "passwords.json")}
    assert not call(postgresql_databases, state="absent", **args)["changed"]
    assert call(postgresql_databases, check=True, **args)["changed"]
    assert "playbooks/site.yml" in call(postgresql_databases, **args)["msg"]
