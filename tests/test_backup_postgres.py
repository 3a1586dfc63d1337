"""Dumps and restores of the program `backup`, with PostgreSQL itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from backups import drill, restoring, saving, settings, status, units
from backups.drill import Drill
from backups.postgres import Server, dump_command, wanted
from backups.restoring import Restorer
from backups.saving import Saver
from backups.settings import App, BackupError, Settings, Target
from programs import find

BIN = Path(find("initdb")).parent
pytestmark = [pytest.mark.needs("root", "restic", "initdb"), pytest.mark.slow]
ROLES = """
CREATE ROLE shop LOGIN;
CREATE ROLE other LOGIN;
CREATE ROLE backups LOGIN BYPASSRLS IN ROLE pg_read_all_data;
ALTER ROLE backups SET lo_compat_privileges = on;
CREATE ROLE "backups-restore" LOGIN CREATEDB;
"""
CONTENT = """
SET search_path = public;
CREATE EXTENSION pg_trgm SCHEMA public;
CREATE SCHEMA stock AUTHORIZATION shop;
CREATE SCHEMA words AUTHORIZATION shop;
CREATE EXTENSION unaccent SCHEMA words;
CREATE SCHEMA geo;
CREATE EXTENSION cube SCHEMA geo;
SET ROLE shop;
CREATE TABLE orders (id serial PRIMARY KEY, name text);
INSERT INTO orders (name) SELECT 'octopus ' || n FROM generate_series(1, 1000) AS n;
CREATE INDEX ON orders USING gin (name gin_trgm_ops);
CREATE TABLE stock."Odd "" name" (value int);
INSERT INTO stock."Odd "" name" VALUES (1);
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
SELECT lo_from_bytea(0, 'large');
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Server]:
    """A running cluster, which trusts everybody who reaches its socket."""
    folder = Path(tempfile.mkdtemp(prefix="cluster-", dir="/tmp"))
    shutil.chown(folder, "postgres")
    folder.chmod(0o755)

    def run(*argv: str) -> None:
        subprocess.run(["runuser", "-u", "postgres", "--", *argv], check=True, capture_output=True, cwd="/")

    run(
        f"{BIN}/initdb",
        "--pgdata",
        f"{folder}/data",
        "--auth=trust",
        "--no-sync",
        "--locale=C.UTF-8",
        "--encoding=UTF8",
    )
    options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
    before = os.environ.get("PGHOST")
    try:
        run(f"{BIN}/pg_ctl", "--pgdata", f"{folder}/data", "--wait", "--log", f"{folder}/log", "-o", options, "start")
        os.environ["PGHOST"] = str(folder)
        server = Server(role="postgres")
        server.sql(ROLES)
        yield server
    finally:
        os.environ.pop("PGHOST", None)
        if before:
            os.environ["PGHOST"] = before
        run(f"{BIN}/pg_ctl", "--pgdata", f"{folder}/data", "--mode=immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def shop(cluster: Server) -> Iterator[Server]:
    """The database of the app."""
    cluster.create("shop", "shop")
    cluster.let_connect("shop", "backups")
    cluster.sql(CONTENT, "shop")
    yield cluster
    for name in (*cluster.named("shop%"),):
        cluster.drop(name)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for module in (settings, saving, restoring, drill):
        monkeypatch.setattr(module, "APPS", tmp_path / "srv")
    monkeypatch.setattr(units, "systemctl", lambda *_: "")
    monkeypatch.setattr(saving, "Server", lambda: Server(role="backups"))
    monkeypatch.setattr(saving, "dump_command", lambda name: [*dump_command(name), "--username=backups"])
    for folder in ("etc", "state", "state/drill", "state/shared"):
        (tmp_path / folder).mkdir()
    (tmp_path / "etc/password").write_text("squid-ink")
    return {"state": tmp_path / "state", "config": tmp_path / "etc"}


@pytest.fixture
def chosen(tmp_path: Path) -> Settings:
    """Settings of a host that has only the database."""
    return Settings("db1", (App("shop", data=False, database=True),), (Target("disk", str(tmp_path / "repository")),))


@pytest.fixture
def restorer(chosen: Settings, folders: dict[str, Any], shop: Server) -> Restorer:
    return Restorer(chosen, server=shop, loader=Server(role="backups-restore"), **folders)


def test_a_database_is_restored_with_everything_in_it_and_the_former_one_is_kept(
    chosen: Settings, folders: dict[str, Any], restorer: Restorer, shop: Server
) -> None:
    assert Saver(chosen, cache=None, **folders).run([]) == []
    shop.sql("DELETE FROM public.orders", "shop")
    with pytest.raises(BackupError, match="-e yes=replace"):
        restorer.prepare("shop")
    plan = restorer.prepare("shop", replace=True)
    assert shop.rows("shop") == (2, 1)  # still the live one
    for step in (restorer.stop, restorer.swap, restorer.start):
        step(plan)
    assert shop.rows("shop") == (2, 1001)
    assert shop.rows(plan.former_database) == (2, 1)
    assert shop.extensions("shop") == {"pg_trgm": "public", "unaccent": "words", "cube": "geo"}
    assert shop.owner("shop") == "shop"
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname IN ('public', 'stock')"
    assert shop.sql(owners, "shop") == "shop"
    assert shop.sql("SELECT convert_from(lo_get(oid), 'UTF8') FROM pg_largeobject_metadata", "shop") == "large"
    assert shop.sql("SELECT has_database_privilege('other', 'shop', 'CONNECT')") == "f"
    assert shop.sql("SELECT count(*) FROM pg_auth_members WHERE roleid = 'shop'::regrole") == "0"
    assert Saver(chosen, cache=None, **folders).run([]) == []
    assert restorer.delete_former("shop") == [f"database {plan.former_database}"]
    assert shop.named("shop%") == ["shop"]


def test_a_copy_of_a_database_is_created_and_the_live_one_stays(
    chosen: Settings, folders: dict[str, Any], restorer: Restorer, shop: Server
) -> None:
    Saver(chosen, cache=None, **folders).run([])
    shop.sql("DELETE FROM public.orders", "shop")
    restorer.prepare("shop", as_name="shop-copy")
    assert shop.rows("shop-copy") == (2, 1001)
    assert shop.rows("shop") == (2, 1)


def test_a_restore_that_fails_leaves_the_live_database(
    chosen: Settings, folders: dict[str, Any], restorer: Restorer, shop: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    Saver(chosen, cache=None, **folders).run([])
    with monkeypatch.context() as patch:
        patch.setattr(Server, "load", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            restorer.prepare("shop", replace=True)
    assert shop.named("shop%") == ["shop"]
    plan = restorer.prepare("shop", replace=True)
    restorer.swap(plan)
    restorer.undo(plan)
    (kept,) = set(shop.named("shop%")) - {"shop"}
    assert kept == f"shop.undone-{plan.stamp}"
    assert shop.rows("shop") == (2, 1001)


def test_a_backup_of_a_newer_postgresql_is_refused(
    chosen: Settings, folders: dict[str, Any], restorer: Restorer, shop: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = shop.major()
    monkeypatch.setattr(Server, "major", lambda _: here + 2)
    Saver(chosen, cache=None, **folders).run([])
    monkeypatch.setattr(Server, "major", lambda _: here)
    with pytest.raises(BackupError, match=rf"is of PostgreSQL {here + 2}, and this host has {here}"):
        restorer.prepare("shop", replace=True)
    monkeypatch.setattr(Server, "major", lambda _: here + 3)
    assert "it is now in PostgreSQL" in restorer.prepare("shop", replace=True).facts["note"]


def test_what_is_in_a_dump_cannot_read_other_databases_or_become_a_superuser(
    chosen: Settings, folders: dict[str, Any], restorer: Restorer, shop: Server
) -> None:
    """The app owns its database, so it can put functions into it that run during a restore."""
    attack = """BEGIN RESET ROLE; EXECUTE 'ALTER ROLE shop SUPERUSER'; RETURN true;
        EXCEPTION WHEN OTHERS THEN RETURN true; END"""
    Server(role="shop").sql(
        f"""CREATE FUNCTION public.attack(n int) RETURNS boolean LANGUAGE plpgsql AS $$ {attack} $$;
        CREATE TABLE public.trap (n int CHECK (public.attack(n)));
        INSERT INTO public.trap VALUES (1);
        CREATE SCHEMA evil;
        CREATE FUNCTION evil.format(a text, b name, c name) RETURNS text LANGUAGE sql AS
          $$ SELECT public.attack(1)::text $$;
        ALTER DATABASE shop SET search_path = evil, pg_catalog;""",
        "shop",
    )
    assert shop.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'shop'") == "f"
    Saver(chosen, cache=None, **folders).run([])
    restorer.prepare("shop", replace=True)
    assert shop.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'shop'") == "f"
    assert Drill(chosen, server=Server(role="backups-restore"), **folders).run([]) == []
    assert shop.sql("SELECT bool_or(rolsuper) FROM pg_roles WHERE rolname <> 'postgres'") == "f"


def test_the_drill_restores_into_a_scratch_database_and_drops_it(
    chosen: Settings, folders: dict[str, Any], shop: Server
) -> None:
    Saver(chosen, cache=None, **folders).run([])
    command = "psql --username=backups-restore -Atc 'SELECT 1/(count(*)-1000) FROM orders'"
    strict = replace(chosen, drill_command=f'sh -c "{command} $DATABASE_URL"')
    loader = Server(role="backups-restore")
    assert Drill(chosen, server=loader, **folders).run([]) == []
    found = status.Status(folders["state"]).read()["drills"]["shop"]
    assert (found["tables"], found["rows"]) == (2, 1001)
    assert shop.named("shop%") == ["shop"]
    assert "division by zero" in Drill(strict, server=loader, **folders).run([])[0]
    assert shop.named("shop%") == ["shop"]


@pytest.mark.parametrize("statement", ["", "CREATE TABLE public.orders (id int)"])
def test_the_drill_accepts_a_database_that_was_empty_when_it_was_saved(
    chosen: Settings, folders: dict[str, Any], cluster: Server, statement: str
) -> None:
    cluster.create("shop", "shop")
    try:
        cluster.let_connect("shop", "backups")
        cluster.sql(statement, "shop")
        assert Saver(chosen, cache=None, **folders).run([]) == []
        assert Drill(chosen, server=Server(role="backups-restore"), **folders).run([]) == []
    finally:
        cluster.drop("shop")


@pytest.mark.usefixtures("shop")
def test_the_drill_reports_a_backup_without_the_rows_of_its_database(
    chosen: Settings, folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    only_tables = [*dump_command("shop"), "--username=backups", "--schema-only"]
    monkeypatch.setattr(saving, "dump_command", lambda _: only_tables)
    assert Saver(chosen, cache=None, **folders).run([]) == []
    failures = Drill(chosen, server=Server(role="backups-restore"), **folders).run([])
    assert "has 2 tables but no rows. It had rows" in failures[0]


@pytest.mark.usefixtures("restorer")
def test_the_drill_reads_a_dump_that_needs_an_extension_of_a_superuser(
    chosen: Settings, folders: dict[str, Any], shop: Server, tmp_path: Path
) -> None:
    shop.sql("CREATE EXTENSION pageinspect SCHEMA public", "shop")
    loader = Server(role="backups-restore")
    assert Saver(chosen, cache=None, **folders).run([]) == []
    assert Drill(chosen, server=loader, **folders).run([]) == []
    found = status.Status(folders["state"]).read()["drills"]["shop"]
    assert found["note"].endswith("only a superuser may create pageinspect")
    dump = tmp_path / "shop.dump"
    whole = subprocess.run([*dump_command("shop"), "--username=postgres"], check=True, capture_output=True).stdout
    dump.write_bytes(whole[:-100])
    with pytest.raises(BackupError, match="pg_restore failed"):
        loader.read(dump)


def test_a_database_that_is_down_is_an_error_and_saves_nothing(
    chosen: Settings, folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PGHOST", str(tmp_path))
    failures = Saver(chosen, cache=None, **folders).run([])
    assert "PostgreSQL can't be reached" in failures[0]


def test_the_role_of_the_backups_may_connect_to_the_databases_and_a_rerun_changes_nothing(
    shop: Server, render: Callable[..., str]
) -> None:
    statements = render("backup", "roles.sql.j2", backup_apps=[{"name": "shop", "data": True, "database": True}])
    psql = ["psql", "--username=postgres", "--no-psqlrc", "--tuples-only", "--set=ON_ERROR_STOP=1", "--dbname=postgres"]

    def run() -> str:
        return subprocess.run([*psql, "--file=-"], input=statements, check=True, capture_output=True, text=True).stdout

    shop.sql('REVOKE CONNECT ON DATABASE shop FROM backups; DROP ROLE "backups-restore"')
    assert run().split("\n") == ["CREATE ROLE", "GRANT", ""]
    assert run() == ""


@pytest.mark.parametrize(
    ("line", "loaded"),
    [
        ("3300; 0 0 COMMENT - EXTENSION pg_trgm ", False),
        ("2; 3079 16385 EXTENSION - pg_trgm ", False),
        ("5; 2615 2200 SCHEMA - public pg_database_owner", False),
        ("3301; 0 0 ACL - SCHEMA public pg_database_owner", False),
        ("215; 1259 16467 TABLE public orders shop", True),
    ],
)
def test_what_only_a_superuser_may_restore_is_left_out(line: str, loaded: bool) -> None:
    assert wanted(line, extensions=False) is loaded
