"""The configuration of a PostgreSQL server: what is applied, how, and what is undone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.postgresql import psql
from postgresql_server import Module, needs_server


@needs_server
def test_a_changed_setting_is_applied_without_a_restart_and_only_once(configure_postgresql: Module) -> None:
    configure_postgresql("log_min_duration_statement = 400\n")
    began = psql("SELECT pg_postmaster_start_time();")
    time.sleep(0.05)
    shown = configure_postgresql("log_min_duration_statement = 500\n", check=True)
    changed, again = (configure_postgresql("log_min_duration_statement = 500\n") for _ in range(2))
    assert (shown["changed"], changed["changed"], again["changed"]) == (True, True, False), (changed, again)
    assert psql("SHOW log_min_duration_statement;") == "500ms"
    assert psql("SELECT pg_postmaster_start_time();") == began


@needs_server
def test_a_setting_that_needs_a_restart_gets_one(configure_postgresql: Module) -> None:
    assert configure_postgresql("# none\n", max_connections=60)["restarted"]
    assert psql("SHOW max_connections;") == "60"
    assert not configure_postgresql("# none\n", max_connections=60)["changed"]


@needs_server
def test_a_setting_that_is_removed_and_needs_a_restart_gets_one(configure_postgresql: Module) -> None:
    configure_postgresql("max_wal_senders = 7\n")
    assert psql("SHOW max_wal_senders;") == "7"
    assert configure_postgresql("# none\n").get("restarted")
    assert psql("SHOW max_wal_senders;") != "7"


@needs_server
def test_a_run_that_does_not_know_all_clients_lowers_no_number_of_connections(configure_postgresql: Module) -> None:
    configure_postgresql("# none\n", max_connections=70)
    assert not configure_postgresql("# none\n", max_connections=60, lower_connections=False)["changed"]
    assert psql("SHOW max_connections;") == "70"
    assert configure_postgresql("# none\n", max_connections=80, lower_connections=False)["restarted"]
    assert psql("SHOW max_connections;") == "80"


@needs_server
def test_a_change_that_an_interrupted_run_did_not_apply_is_applied(
    configure_postgresql: Module, postgresql_server: Path
) -> None:
    configure_postgresql("work_mem = 5MB\n")
    time.sleep(0.05)
    (postgresql_server / "etc/99/main/conf.d/50-site.conf").write_text("work_mem = 6MB\n")
    assert configure_postgresql("work_mem = 6MB\n")["changed"]
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
    configure_postgresql: Module, settings: str, hba: str, reported: str
) -> None:
    configure_postgresql("work_mem = 7MB\n")
    failed = configure_postgresql(settings, hba=hba)
    assert "The previous one was restored" in failed["msg"].splitlines()[0]
    assert reported in failed["msg"]
    assert psql("SHOW work_mem;") == "7MB"
    assert not configure_postgresql("work_mem = 7MB\n")["changed"]
