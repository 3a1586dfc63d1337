"""db2 follows db1: what it has, how it becomes the primary, and how db1 comes back. The tests build on one another."""

from __future__ import annotations

import ssl
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
import testinfra
from data.guestbook import Guestbook
from testinfra.host import Host
from testing import PROJECT, Machine, Run, Web, wait_for

testinfra_hosts = ["ansible://web"]
ALL = "webservers:databases"
Play = Callable[..., Run]


@pytest.fixture
def guestbook(machine: Machine) -> Guestbook:
    """The guestbook. Its certificate is self-signed."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    return Guestbook("guestbook", Web(machine.web.address, 443, "guestbook.test", trusting), machine)


@pytest.fixture
def at(inventory: Path) -> Callable[[str], Host]:
    """A database host by its name."""
    return lambda name: testinfra.get_host(f"ansible://{name}", ansible_inventory=str(inventory))


def sql(host: Host, statement: str, database: str = "guestbook") -> str:
    """Run a statement as the superuser, on this host."""
    with host.sudo():
        return str(host.check_output(f'cd / && runuser -u postgres -- psql -Atd {database} -c "{statement}"'))


def sign(guestbook: Guestbook) -> str:
    """Write an entry as a guest; return its message."""
    message = f"m{uuid4().hex[:8]}"
    answer = guestbook.client.post("/entries", {"name": "Ada", "message": message}, "/")
    assert (answer.status, message in answer.text) == (200, True)
    return message


def entries(host: Host) -> set[str]:
    return set(sql(host, "select message from entry").split())


def follows(host: Host) -> bool:
    status = "select count(*) from pg_stat_wal_receiver where status = 'streaming'"
    return sql(host, "select pg_is_in_recovery()", "postgres") == "t" and sql(host, status, "postgres") == "1"


def has(host: Host, message: str) -> bool:
    return message in entries(host)


def passwords(host: Host) -> str:
    with host.sudo():
        return str(host.check_output("cat /etc/postgresql-passwords.json"))


def new_password(host: Host) -> None:
    """Have the next run generate a password for the guestbook, as docs/databases.md says."""
    with host.sudo():
        host.run_expect([0], "sed -i /guestbook/d /etc/postgresql-passwords.json")


def test_a_standby_has_every_entry_and_refuses_to_write(
    guestbook: Guestbook, play: Play, at: Callable[[str], Host]
) -> None:
    message = sign(guestbook)
    wait_for(partial(has, at("db2"), message), 10, "the standby has the entry")
    refused = at("db2").run("sudo sh -c \"cd / && runuser -u postgres -- psql -d guestbook -c 'delete from entry'\"")
    assert "read-only transaction" in refused.stderr
    shown = play("status", limit=ALL).output
    assert "db1: PostgreSQL: primary: standby_db2 streaming" in shown, shown
    assert "db2: PostgreSQL: standby: connected" in shown, shown


@pytest.mark.usefixtures("machine")
def test_the_password_of_replication_is_encrypted_in_transit_and_only_readable_by_the_server(
    at: Callable[[str], Host],
) -> None:
    with at("db2").sudo():
        password = at("db2").check_output("cut -d: -f5 /etc/postgresql-standby/pgpass")
        assert at("db2").check_output("stat -c '%a %U' /etc/postgresql-standby/pgpass") == "600 postgres"
        assert len(password) > 30
        assert password not in at("db2").check_output("ps -eo args; journalctl --no-pager --output=cat")
    assert (
        sql(at("db1"), "select bool_and(ssl) from pg_stat_ssl join pg_stat_replication using (pid)", "postgres") == "t"
    )


def test_a_primary_that_cannot_be_stopped_is_not_replaced(
    guestbook: Guestbook, play: Play, at: Callable[[str], Host]
) -> None:
    """Only the control node does not reach it, and the apps still write to it."""
    address = at("db1").ansible.get_variables()["ansible_host"]
    subprocess.run(["ip", "route", "add", "blackhole", f"{address}/32"], check=True)
    try:
        run = play("promote", "-e", "promote=db2", limit=ALL)
        limited = play("promote", "-e", "promote=db2", "-e", "primary_is_off=yes", limit="webservers:db2")
        mistaken = play("promote", "-e", "promote=db2", "-e", "primary_is_off=yes", limit=ALL)
    finally:
        subprocess.run(["ip", "route", "delete", "blackhole", f"{address}/32"], check=True)
    assert run.code != 0
    assert "db1, the primary, can't be reached, so this run can't stop it." in run.output, run.output
    assert limited.code != 0
    assert "This run has not tried to reach db1" in limited.output, limited.output
    assert mistaken.code != 0
    assert "db2 still gets changes from db1, so that is not off." in mistaken.output, mistaken.output
    message = sign(guestbook)
    wait_for(partial(has, at("db2"), message), 10, "the standby still follows")
    assert follows(at("db2"))


def test_after_a_promotion_the_same_release_writes_to_the_new_primary(
    guestbook: Guestbook, play: Play, at: Callable[[str], Host]
) -> None:
    new_password(at("db1"))
    deployed = play("deploy", limit=ALL)
    assert deployed.code == 0, deployed.output
    assert len({passwords(at(name)) for name in ("db1", "db2")}) == 1
    release, before = guestbook.machine.live("guestbook"), sign(guestbook)
    wrong = play("promote", "-e", "promote=db1", limit=ALL)
    assert "option -e promote" in wrong.output, wrong.output
    run = play("promote", "-e", "promote=db2", limit=ALL)
    assert run.code == 0, run.output
    assert "db2 is the primary now." in run.output, run.output
    wait_for(lambda: guestbook.web.ask("/").status == 200, 30, "the app has connected to the new primary")
    after = sign(guestbook)
    assert {before, after} <= entries(at("db2"))
    assert guestbook.machine.live("guestbook") == release
    with at("db1").sudo():
        at("db1").run("systemctl restart postgresql")
        assert "online" not in at("db1").check_output("pg_lsclusters --no-header")
    assert play("promote", "-e", "promote=db2", limit=ALL).recap("db2")["changed"] == 0
    shown = play("status", limit=ALL)
    assert (shown.code, "PostgreSQL is fenced: another host has its databases now" in shown.output) == (2, True), shown


def test_a_run_with_the_former_inventory_starts_no_second_primary(play: Play, at: Callable[[str], Host]) -> None:
    run = play("site", limit=ALL)
    assert run.code != 0
    assert "promote.yml has stopped the PostgreSQL cluster of this host" in run.output, run.output
    with at("db1").sudo():
        assert "online" not in at("db1").check_output("pg_lsclusters --no-header")


def test_the_former_primary_becomes_a_standby_and_its_data_is_kept(
    guestbook: Guestbook, play: Play, at: Callable[[str], Host]
) -> None:
    run = play("site", "-e", "primary_database=db2", limit=ALL)
    assert run.code == 0, run.output
    assert "the former cluster, which was no copy of the primary, is kept in" in run.output, run.output
    message = sign(guestbook)
    wait_for(partial(has, at("db1"), message), 10, "the standby has the entry")
    with at("db1").sudo():
        kept = at("db1").check_output("ls -d /var/lib/postgresql/17/main.before-*").split()
        assert len(kept) == 1
    again = play("site", "-e", "primary_database=db2", limit=ALL)
    assert [again.recap(name)["changed"] for name in ("web", "db1", "db2")] == [0, 0, 0], again.output
    checked = play("site", "-e", "primary_database=db2", "--check", limit=ALL)
    assert [checked.recap(name)["changed"] for name in ("web", "db1", "db2")] == [0, 0, 0], checked.output


def test_a_run_with_the_former_inventory_changes_neither_the_primary_nor_the_standby(
    guestbook: Guestbook, play: Play, at: Callable[[str], Host]
) -> None:
    run = play("site", limit=ALL)
    assert run.code != 0
    assert "is a standby, but the inventory says nothing of that" in run.output, run.output
    assert "that host is itself a standby" in run.output or "This run has not configured" in run.output, run.output
    sign(guestbook)
    assert follows(at("db1"))


def test_a_standby_that_was_off_for_long_is_copied_again(
    guestbook: Guestbook, play: Play, at: Callable[[str], Host]
) -> None:
    with at("db1").sudo():
        at("db1").check_output("systemctl stop postgresql")
    # The primary no longer has what the standby lacks.
    sql(at("db2"), "select pg_drop_replication_slot('standby_db1')", "postgres")
    message = sign(guestbook)
    for _ in range(3):
        sql(at("db2"), "select pg_switch_wal()", "postgres")
        sql(at("db2"), "checkpoint", "postgres")
    run = play("site", "-e", "primary_database=db2", limit=ALL)
    assert run.code == 0, run.output
    wait_for(partial(has, at("db1"), message), 10, "the standby has the entry")


def test_when_the_primary_is_lost_the_standby_has_what_guests_wrote(
    guestbook: Guestbook, play: Play, at: Callable[[str], Host]
) -> None:
    message, lost = sign(guestbook), at("db2").ansible.get_variables()["ansible_host"]
    with guestbook.machine.host.sudo():
        # As behind a router: no answer that the host is unreachable.
        silent = f"ip neighbour replace {lost} lladdr 02:00:00:00:00:01 nud permanent dev host0"
        guestbook.machine.host.run_expect([0], silent)
    subprocess.run([PROJECT / "script/machine", "down", "standby-db2"], check=True)
    run = play("promote", "-e", "promote=db1", "-e", "primary_database=db2", "-e", "primary_is_off=yes", limit=ALL)
    assert run.code == 0, run.output
    began = time.monotonic()
    wait_for(lambda: guestbook.web.ask("/").status == 200, 60, "the app has connected to the new primary")
    assert time.monotonic() - began < 30
    assert has(at("db1"), message)
    sign(guestbook)
    # The lost host is still in the inventory, as a standby that is off.
    deployed = play("deploy", "-e", "primary_database=db1", limit=ALL)
    assert deployed.code == 0, deployed.output
    sign(guestbook)
    changed = play("site", "-e", "primary_database=db1", limit="web:db1")
    assert changed.code == 0, changed.output
    sign(guestbook)
