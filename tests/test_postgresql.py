"""The modules for PostgreSQL, with a server of their own where PostgreSQL is installed; its clients are real, too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import postgresql
from ansible_collections.blueoctopus.site.plugins.module_utils.postgresql import memory_settings, psql, verifies
from ansible_collections.blueoctopus.site.plugins.modules import postgresql_config, postgresql_databases
from ansible_collections.blueoctopus.site.plugins.modules.private_certificate import Certificates
from modules import call
from programs import find

PROGRAMS = Path(find("initdb")).parent
Module = Callable[..., dict[str, Any]]
Test = TypeVar("Test", bound=Callable[..., None])
PORT = 20000 + os.getpid() % 10000


def needs_server(test: Test) -> Test:
    """Mark a test that runs a server."""
    return pytest.mark.slow(pytest.mark.needs("root", "initdb", "runuser")(test))


def as_superuser(*argv: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["runuser", "-u", "postgres", "--", *map(str, argv)], cwd="/", capture_output=True, text=True)


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A running server, without TCP; its socket and its data are in this folder, in the layout of Debian's package."""
    root = Path(f"/tmp/postgresql-test-{os.getpid()}")  # short, as the path of a socket is limited
    root.mkdir()
    shutil.chown(root, "postgres")
    root.chmod(0o755)
    made = as_superuser(PROGRAMS / "initdb", "-D", root / "data", "--auth=peer", "--encoding=SQL_ASCII", "--locale=C")
    assert made.returncode == 0, made.stderr
    cluster = root / "etc/99/main"
    (cluster / "conf.d").mkdir(parents=True)
    own = f"listen_addresses = ''\nport = {PORT}\nunix_socket_directories = '{root}'\n"
    own += f"hba_file = '{cluster}/pg_hba.conf'\n"
    with (root / "data/postgresql.conf").open("a") as config:
        config.write(f"{own}include_dir = '{cluster}/conf.d'\n")
    (cluster / "pg_hba.conf").write_text("local all all peer\n")
    try:
        control("start", root)
        yield root
    finally:
        control("stop", root)
        shutil.rmtree(root)


def control(action: str, root: Path) -> None:
    as_superuser(PROGRAMS / "pg_ctl", "-D", root / "data", "-w", "-m", "fast", "-l", root / "log", action)


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The server, as the one of this host."""
    monkeypatch.setattr(postgresql, "SOCKETS", folder)
    monkeypatch.setattr(postgresql, "PORT", PORT)
    monkeypatch.setattr(postgresql_config, "CONFIG", folder / "etc")
    for module in (postgresql_config, postgresql_databases):
        monkeypatch.setattr(module, "cluster_version", lambda: "99")

    def restart(self: postgresql_config.Server, action: str) -> None:
        control(action, folder)
        if not self.answers:
            raise postgresql.PostgresqlError((folder / "log").read_text()[-2000:])

    monkeypatch.setattr(postgresql_config.Server, "control", restart)
    return folder


@pytest.fixture
def databases(server: Path) -> Module:
    def run(*entries: dict[str, Any], **args: Any) -> dict[str, Any]:
        passwords = str(server / "passwords.json")
        return call(postgresql_databases, databases=list(entries), passwords=passwords, **args)

    return run


@pytest.fixture
def config(server: Path) -> Module:  # noqa: ARG001
    def run(settings: str, check: bool = False, hba: str = "local all all peer\n", **args: Any) -> dict[str, Any]:
        files = {"conf.d/50-site.conf": settings, "pg_hba.conf": hba}
        return call(postgresql_config, check, files=files, **args)

    return run


def test_the_cluster_of_a_former_version_is_managed_as_long_as_it_has_the_port(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = "15 main 5432 online postgres /a /b\\n17 main 5433 online postgres /c /d\\n17 other 5434 down postgres /e /f"
    (tmp_path / "pg_lsclusters").write_text(f"#!/bin/sh\nprintf '{rows}'\n")
    (tmp_path / "pg_lsclusters").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert postgresql.cluster_version() == "15"


# --- databases ------------------------------------------------------------------------------------------------------


@needs_server
def test_a_database_has_an_owner_of_its_name_and_is_created_once(databases: Module) -> None:
    entry = {"name": "shop", "extensions": ["pg_trgm"]}
    first, second = databases(entry), databases(entry)
    assert (first["changed"], second["changed"]) == (True, False), (first, second)
    assert "create the database shop" in first["diff"][0]["after"]
    assert psql("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'shop';") == "shop"
    assert psql("SHOW server_encoding;", "shop") == "UTF8"
    assert psql("SELECT count(*) FROM pg_extension WHERE extname = 'pg_trgm';", "shop") == "1"


@needs_server
def test_check_mode_names_the_steps_and_changes_nothing(databases: Module) -> None:
    shown = databases({"name": "later", "password": True}, check=True)
    assert shown["names"] == ["later"]
    assert psql("SELECT count(*) FROM pg_database WHERE datname = 'later';") == "0"


@needs_server
def test_another_role_can_not_connect_to_a_database(databases: Module) -> None:
    databases({"name": "first"}, {"name": "second"})
    allowed = "SELECT has_database_privilege('{}', 'first', 'CONNECT');"
    assert [psql(allowed.format(role)) for role in ("first", "second")] == ["t", "f"]


@needs_server
def test_the_owner_of_a_database_cannot_run_code_as_the_superuser(databases: Module) -> None:
    databases({"name": "sly"})
    psql(
        "SET ROLE sly; CREATE SCHEMA evil; "
        "CREATE FUNCTION evil.f() RETURNS name LANGUAGE plpgsql AS $$ BEGIN "
        "EXECUTE 'ALTER ROLE sly SUPERUSER'; RETURN 'x'; END $$; "
        "CREATE VIEW evil.pg_extension AS SELECT evil.f() AS extname; "
        "ALTER DATABASE sly SET search_path = evil, pg_catalog;",
        "sly",
    )
    assert databases({"name": "sly", "extensions": ["pg_trgm"]})["changed"]
    assert psql("SELECT rolsuper FROM pg_roles WHERE rolname = 'sly';") == "f"
    assert (
        psql(
            "SELECT nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'pg_trgm';",
            "sly",
        )
        == "public"
    )


@needs_server
def test_an_extension_that_is_not_installed_is_named(databases: Module) -> None:
    failed = databases({"name": "shop", "extensions": ["nonesuch"]})
    assert "could not create the extension nonesuch in shop" in failed["msg"]
    assert "is not available" in failed["msg"]


@needs_server
def test_a_password_is_generated_once_kept_for_root_and_never_sent_to_the_server(
    databases: Module, server: Path
) -> None:
    psql("ALTER SYSTEM SET log_statement = 'all'; SELECT pg_reload_conf();")
    entry = {"name": "remote", "password": True}
    first, second = databases(entry), databases(entry)
    path = server / "passwords.json"
    password = json.loads(path.read_text())["remote"]
    psql("ALTER SYSTEM RESET log_statement; SELECT pg_reload_conf();")
    assert (first["changed"], second["changed"]) == (True, False)
    assert path.stat().st_mode & 0o777 == 0o600
    assert verifies(psql("SELECT rolpassword FROM pg_authid WHERE rolname = 'remote';"), password)
    assert "ALTER ROLE" in (server / "log").read_text()
    assert password not in (server / "log").read_text() + json.dumps([first, second])


@needs_server
def test_too_few_connections_are_reported_before_anything_is_created(databases: Module) -> None:
    failed = databases({"name": "never"}, connections=5000)
    assert "The apps may open 5000 connections to PostgreSQL, but it accepts" in failed["msg"].splitlines()[0]
    assert psql("SELECT count(*) FROM pg_database WHERE datname = 'never';") == "0"


@needs_server
def test_dropping_a_database_drops_its_owner_and_password_and_nothing_else(databases: Module, server: Path) -> None:
    databases({"name": "gone", "password": True}, {"name": "stays"})
    psql('CREATE DATABASE "gone.before-20260102T030405Z" OWNER gone;')  # as a restore keeps the former one
    assert databases({"name": "gone"}, state="absent")["changed"]
    assert not databases({"name": "gone"}, state="absent")["changed"]
    assert psql("SELECT string_agg(rolname, ',') FROM pg_roles WHERE rolname IN ('gone', 'stays');") == "stays"
    assert psql("SELECT count(*) FROM pg_database WHERE datname LIKE 'gone%';") == "0"
    assert "gone" not in json.loads((server / "passwords.json").read_text())


@needs_server
def test_a_database_of_another_owner_is_not_dropped(databases: Module) -> None:
    assert "the owner of the database postgres is postgres" in databases({"name": "postgres"}, state="absent")["msg"]


def test_a_host_without_postgresql_has_nothing_to_drop_and_names_the_playbook_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(postgresql_databases, "cluster_version", lambda: "")
    args: dict[str, Any] = {"databases": [{"name": "shop"}], "passwords": str(tmp_path / "passwords.json")}
    assert not call(postgresql_databases, state="absent", **args)["changed"]
    assert call(postgresql_databases, check=True, **args)["changed"]
    assert "playbooks/site.yml" in call(postgresql_databases, **args)["msg"]


# --- configuration --------------------------------------------------------------------------------------------------


@needs_server
def test_a_changed_setting_is_applied_without_a_restart_and_only_once(config: Module) -> None:
    config("log_min_duration_statement = 400\n")
    began = psql("SELECT pg_postmaster_start_time();")
    time.sleep(0.05)
    shown = config("log_min_duration_statement = 500\n", check=True)
    changed, again = config("log_min_duration_statement = 500\n"), config("log_min_duration_statement = 500\n")
    assert (shown["changed"], changed["changed"], again["changed"]) == (True, True, False), (changed, again)
    assert psql("SHOW log_min_duration_statement;") == "500ms"
    assert psql("SELECT pg_postmaster_start_time();") == began


@needs_server
def test_a_setting_that_needs_a_restart_gets_one(config: Module) -> None:
    assert config("# none\n", max_connections=60)["restarted"]
    assert psql("SHOW max_connections;") == "60"
    assert not config("# none\n", max_connections=60)["changed"]


@needs_server
def test_a_run_that_does_not_know_all_clients_lowers_no_number_of_connections(config: Module) -> None:
    config("# none\n", max_connections=70)
    assert not config("# none\n", max_connections=60, lower_connections=False)["changed"]
    assert psql("SHOW max_connections;") == "70"
    assert config("# none\n", max_connections=80, lower_connections=False)["restarted"]
    assert psql("SHOW max_connections;") == "80"


@needs_server
def test_a_change_that_an_interrupted_run_did_not_apply_is_applied(config: Module, server: Path) -> None:
    config("work_mem = 5MB\n")
    time.sleep(0.05)
    (server / "etc/99/main/conf.d/50-site.conf").write_text("work_mem = 6MB\n")
    assert config("work_mem = 6MB\n")["changed"]
    assert psql("SHOW work_mem;") == "6MB"


@needs_server
@pytest.mark.parametrize(
    ("settings", "hba", "reported"),
    [
        ("no_such_setting = 1\n", "local all all peer\n", "no_such_setting"),
        ("# none\n", "local all all trustworthy\n", "invalid authentication method"),
        ("shared_preload_libraries = 'nonesuch'\n", "local all all peer\n", "nonesuch"),
    ],
)
def test_a_configuration_that_the_server_refuses_is_undone(
    config: Module, settings: str, hba: str, reported: str
) -> None:
    config("work_mem = 7MB\n")
    failed = config(settings, hba=hba)
    assert "The previous one was restored" in failed["msg"].splitlines()[0]
    assert reported in failed["msg"]
    assert psql("SHOW work_mem;") == "7MB"
    assert not config("work_mem = 7MB\n")["changed"]


@pytest.mark.parametrize("dedicated", [False, True])
@pytest.mark.parametrize("total", [512, 1024, 4096, 65536])
def test_memory_settings_fit_the_machine(total: int, dedicated: bool) -> None:
    found = {name: int(value.removesuffix("MB")) for name, value in memory_settings(total, 100, dedicated).items()}
    assert found["shared_buffers"] <= total // 4
    assert found["effective_cache_size"] < total
    assert found["shared_buffers"] + found["maintenance_work_mem"] < total * 0.4


# --- over the network -----------------------------------------------------------------------------------------------


@needs_server
def test_over_the_network_only_the_password_and_the_verified_certificate_open_the_database(
    config: Module, databases: Module, server: Path
) -> None:
    databases({"name": "remote", "password": True}, {"name": "other"})
    certificates = Certificates(server / "tls", ["127.0.0.1"])
    certificates.create()
    shutil.chown(certificates.key, "postgres")
    password = json.loads((server / "passwords.json").read_text())["remote"]
    settings = f"""listen_addresses = '127.0.0.1'
ssl = on
ssl_cert_file = '{certificates.certificate}'
ssl_key_file = '{certificates.key}'
"""
    hba = "local all all peer\nhostssl sameuser all 127.0.0.1/32 scram-sha-256\n"
    try:
        assert config(settings, hba=hba)["restarted"]

        def reach(database: str, secret: str, root: Path = certificates.ca, mode: str = "verify-full") -> str:
            url = f"postgresql://remote@127.0.0.1:{PORT}/{database}?sslmode={mode}&sslrootcert={root}"
            environment = {"PATH": os.environ["PATH"], "PGPASSWORD": secret}
            done = subprocess.run(
                ["psql", url, "-Atc", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"],
                env=environment, capture_output=True, text=True,
            )  # fmt: skip
            return done.stdout.strip() or done.stderr

        other = Certificates(server / "tls2", ["127.0.0.1"])
        other.create()
        assert reach("remote", password) == "t"
        assert "password authentication failed" in reach("remote", "wrong")
        assert "certificate verify failed" in reach("remote", password, other.ca)
        assert "no pg_hba.conf entry" in reach("other", password)
        assert "no pg_hba.conf entry" in reach("remote", password, mode="disable")
    finally:
        config("# none\n")
