"""Backups of web13 and db13 on store13: restored after a loss, as a copy, to a second, by hand; a stolen host."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml
from testing import PROJECT, Machine, Run

testinfra_hosts = ["ansible://web13"]
Play = Callable[..., Run]
APP = "guestbook"
DATA = f"/srv/{APP}/data"
PSQL = f"cd / && runuser -u {APP} -- psql -h /run/postgresql -d {APP} -XAtqc"
SQLITE = "import sqlite3; c = sqlite3.connect('{path}'); {statement}; c.commit(); c.close()"


@pytest.fixture
def store(inventory: Path) -> Iterator[Any]:
    """The host that keeps the backups; commands run as root."""
    host = testinfra.get_host("ansible://store13", ansible_inventory=str(inventory))
    with host.sudo():
        yield host


@pytest.fixture
def address(inventory: Path) -> str:
    """The address of that host."""
    return str(yaml.safe_load((inventory / "host_vars/store13/address.yml").read_text())["ansible_host"])


@pytest.fixture(autouse=True)
def root(machine: Machine) -> Iterator[None]:
    """Run all commands on the machine as root."""
    with machine.host.sudo():
        yield


@pytest.fixture
def sqlite(machine: Machine) -> Callable[[str], str]:
    """Run a statement of Python with `c`, a connection to a database in the data folder, as the app."""

    def run(statement: str) -> str:
        program = SQLITE.format(path=f"{DATA}/local.db", statement=statement)
        return str(machine.host.check_output(f'cd / && runuser -u {APP} -- python3 -c "{program}"'))

    return run


def status(machine: Machine) -> dict[str, Any]:
    return dict(json.loads(machine.host.check_output("cat /var/lib/backup/shared/status.json")))


def backup(play: Play, *options: str) -> Run:
    run = play("backup", *options, limit="all")
    assert run.code == 0, run.output
    return run


def restore(play: Play, *options: str) -> Run:
    return play("restore", "-e", f"app={APP}", *options, limit="all")


def test_site_yml_has_made_the_first_backup_of_every_app(machine: Machine) -> None:
    made = status(machine)["backups"]
    assert {APP, "other"} <= made.keys()
    assert all(targets["store"]["error"] == "" for targets in made.values()), made


def test_destroyed_files_and_databases_are_restored(machine: Machine, play: Play, sqlite: Callable[[str], str]) -> None:
    host = machine.host
    host.run_expect([0], f"runuser -u {APP} -- sh -c 'umask 027; mkdir -p {DATA}/x; echo ahoy > {DATA}/x/a.txt'")
    host.run_expect([0], f"{PSQL} 'create table ink (drop int); insert into ink select generate_series(1, 500)'")
    sqlite("c.execute('create table t (n)'); c.executemany('insert into t values (?)', [(n,) for n in range(50)])")
    before = host.check_output(f"stat -c '%U %G %a %n' {DATA}/x {DATA}/x/a.txt {DATA}/local.db")
    made = backup(play, "-e", f"app={APP}")
    assert re.search(rf"{APP} to store: [\d.]+ \w+, .* s", made.output), made.output

    host.run_expect([0], f"rm -r {DATA}/x {DATA}/local.db")
    host.run_expect([0], f"{PSQL} 'drop table ink; create table after (n int)'")
    done = restore(play, "-e", "yes=replace")
    assert done.code == 0, done.output
    assert f"{DATA}.before-" in done.output
    assert host.check_output(f"stat -c '%U %G %a %n' {DATA}/x {DATA}/x/a.txt {DATA}/local.db") == before
    assert host.check_output(f"cat {DATA}/x/a.txt") == "ahoy"
    assert host.check_output(f"{PSQL} 'select count(*) from ink'") == "500"
    assert sqlite("print(c.execute('select count(*) from t').fetchone()[0])") == "50"
    assert host.run(f"{PSQL} 'select * from after'").rc != 0
    assert host.check_output(f"systemctl is-active '{APP}@*.service'") == "active"

    deleted = restore(play, "-e", "former=delete")
    assert deleted.code == 0, deleted.output
    assert host.run(f"ls -d {DATA}.before-*").rc != 0
    assert f"{APP}.before" not in host.check_output("cd / && runuser -u postgres -- psql -Atc '\\l'")


def test_a_restored_copy_does_not_change_the_live_app(machine: Machine, play: Play) -> None:
    done = restore(play, "-e", f"as={APP}-copy")
    assert done.code == 0, done.output
    assert machine.host.file(f"/srv/{APP}-copy/data/x/a.txt").exists
    count = f"cd / && runuser -u postgres -- psql -d {APP}-copy -Atc 'select count(*) from ink'"
    assert machine.host.check_output(count) == "500"
    machine.host.run_expect([0], f"backup remove-copy {APP}-copy")
    assert not machine.host.file(f"/srv/{APP}-copy").exists


def test_a_queue_in_redis_is_restored_with_its_app_and_into_a_copy(machine: Machine, play: Play) -> None:
    host = machine.host
    client = f"cd / && runuser -u {APP} -- valkey-cli -s /run/app-redis/{APP}/redis.sock"
    host.run_expect([0], f"{client} rpush saved one two")
    backup(play, "-e", f"app={APP}")
    host.run_expect([0], f"{client} del saved")

    done = restore(play, "-e", f"as={APP}-copy")
    assert done.code == 0, done.output
    assert f"/srv/{APP}-copy/redis" in done.output
    host.run_expect([0], f"valkey-check-rdb /srv/{APP}-copy/redis/dump.rdb && backup remove-copy {APP}-copy")
    assert host.check_output(f"{client} exists saved") == "0"

    done = restore(play, "-e", "yes=replace")
    assert done.code == 0, done.output
    assert f"/var/lib/app-redis/{APP}.before-" in done.output
    assert host.check_output(f"{client} lrange saved 0 -1").split() == ["one", "two"]
    assert host.check_output(f"stat -c '%U %a' /var/lib/app-redis/{APP}") == f"{APP} 700"
    units = f"app-redis-{APP} '{APP}@*.service' '{APP}.worker.1@*.service'"
    assert host.check_output(f"systemctl is-active {units}").split() == ["active"] * 3
    assert restore(play, "-e", "former=delete").code == 0
    assert host.run(f"ls -d /var/lib/app-redis/{APP}.*").rc != 0
    host.run_expect([0], f"{client} del saved")


def test_a_time_without_a_backup_lists_those_that_exist(play: Play) -> None:
    done = restore(play, "-e", "at='2001-01-01 00:00'", "-e", f"as={APP}-copy")
    assert done.code != 0
    assert re.search(r"It has these:\s+20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", done.output), done.output


def test_a_stolen_host_cannot_delete_backups_or_open_a_shell(machine: Machine, address: str) -> None:
    host = machine.host
    listed = json.loads(host.check_output("backup restic store snapshots --json"))
    host.run(f"timeout 20 /usr/local/sbin/backup restic store forget {listed[0]['id']}")
    host.run_expect([0], "backup restic store unlock --remove-all")
    assert len(json.loads(host.check_output("backup restic store snapshots --json"))) == len(listed)
    known = "-o UserKnownHostsFile=/etc/backup/known_hosts -o BatchMode=yes"
    shell = f"timeout 20 ssh -i /etc/backup/ssh_key {known} backups-store@{address} id </dev/null"
    assert host.check_output(f"{shell} | grep --text --count uid= || true") == "0"  # rclone answers in binary
    sftp = f"echo ls | timeout 20 sftp -b - -i /etc/backup/ssh_key {known} backups-store@{address}"
    assert host.check_output(f"{sftp} || echo refused").endswith("refused")


def test_the_control_node_may_delete_old_backups_and_gives_the_permission_back(play: Play, store: Any) -> None:
    backup(play, "-e", "prune=true")
    assert "prune" not in store.check_output("cat /srv/backups/.ssh/authorized_keys")


def test_the_drill_restores_to_scratch_copies_and_removes_them(machine: Machine, play: Play) -> None:
    done = backup(play, "-e", "drill=true")
    assert re.search(rf"{APP} from store: \d+ files, \d+ sqlite, \d+ tables, \d+ rows, \d+ keys", done.output), (
        done.output
    )
    assert machine.host.check_output("ls -A /var/lib/backup/drill") == ""
    assert f"{APP}.drill" not in machine.host.check_output("cd / && runuser -u postgres -- psql -Atc '\\l'")


def test_the_units_cannot_change_the_data_of_apps(machine: Machine) -> None:
    for unit in ("backup@all", "backup-drill@all"):
        shown = machine.host.check_output(f"systemctl show -p User,ProtectSystem,CapabilityBoundingSet {unit}.service")
        assert "User=root" not in shown
        assert "ProtectSystem=strict" in shown
        assert "cap_dac_override" not in shown
    modes = machine.host.check_output("stat -c '%U %a' /etc/backup /etc/backup/password")
    assert modes.split() == ["root", "700", "root", "600"]


def test_an_unreachable_target_is_named_by_the_error_and_the_status(machine: Machine, play: Play, address: str) -> None:
    machine.host.run_expect([0], f"ip route add unreachable {address}/32")
    try:
        run = play("backup", "-e", f"app={APP}")
        assert run.code != 0
        assert "The target store can't be reached" in run.output, run.output
        shown = play("status")
        assert shown.code != 0
        assert "the last backup to store failed" in shown.output
    finally:
        machine.host.run_expect([0], f"ip route del unreachable {address}/32")
    backup(play, "-e", f"app={APP}")
    assert "backup:" not in play("status").output


def test_a_wrong_password_changes_nothing_and_the_error_names_the_solution(
    machine: Machine, play: Play, tmp_path: Path
) -> None:
    # Of site.yml only what concerns backups.
    check: dict[str, Any] = {"import_playbook": str(PROJECT / "playbooks/check.yml")}
    check["vars"] = {"checked_hosts": "{{ groups | blueoctopus.site.hosts_in }}"}
    playbooks = [check, {"import_playbook": str(PROJECT / "playbooks/provision-backups.yml")}]
    (tmp_path / "backups.yml").write_text(yaml.safe_dump(playbooks, sort_keys=False))
    run = play(os.path.relpath(tmp_path / "backups", PROJECT / "playbooks"), "-e", "backup_password=wrong", limit="all")
    assert run.code != 0
    assert "differs from the password of the existing backups" in run.output
    assert "wrong" not in machine.host.check_output("cat /etc/backup/password")


def test_a_bare_debian_restores_with_the_documented_commands(machine: Machine, store: Any) -> None:
    password = machine.host.check_output("cat /etc/backup/password")
    store.run_expect([0], "apt-get install --yes --no-install-recommends restic")
    store.run_expect([0], f"umask 077; echo '{password}' > /root/password")
    restic = "restic --repo /srv/backups/repositories/web13 --password-file /root/password"
    listed = json.loads(store.check_output(f"{restic} snapshots --json --tag app:{APP},kind:files"))
    try:
        store.run_expect([0], f"{restic} restore {listed[-1]['id']} --target /root/restored")
        assert store.check_output(f"cat /root/restored{DATA}/x/a.txt") == "ahoy"
        copies = f"/root/restored/var/lib/backup/stage/{APP}/sqlite/local.db"
        count = f"import sqlite3; print(sqlite3.connect('{copies}').execute('select count(*) from t').fetchone()[0])"
        assert store.check_output(f'python3 -c "{count}"') == "50"
    finally:
        store.run_expect([0], "rm -rf /root/restored /root/password")


def test_a_database_on_its_own_host_is_restored_with_the_files_of_the_webserver(play: Play, inventory: Path) -> None:
    db = testinfra.get_host("ansible://db13", ansible_inventory=str(inventory))
    psql = "cd / && runuser -u postgres -- psql -d visitors -XAtqc"
    with db.sudo():
        db.run_expect([0], f"{psql} 'set role visitors; create table ink (drop int); insert into ink values (1)'")
        backup(play, "-e", "app=visitors")
        db.run_expect([0], f"{psql} 'drop table ink'")
        done = play("restore", "-e", "app=visitors", "-e", "yes=replace", limit="all")
        assert done.code == 0, done.output
        assert db.check_output(f"{psql} 'select count(*) from ink'") == "1"
        assert play("restore", "-e", "app=visitors", "-e", "former=delete", limit="all").code == 0


# --- any second of a database -----------------------------------------------------------------------------------------

TICKS = f"{PSQL} 'insert into ticks values (clock_timestamp()) returning extract(epoch from at)'"
COPY = f"cd / && runuser -u postgres -- psql -d {APP}-copy -XAtqc"


@pytest.fixture
def ticks(machine: Machine) -> Iterator[list[float]]:
    """The times of rows that were written each 100 ms for some seconds."""
    host = machine.host
    host.run_expect([0], f"{PSQL} 'create table if not exists ticks (at timestamptz)'")
    loop = f"for n in $(seq 40); do {TICKS} || exit; sleep 0.1; done"
    yield [float(line) for line in host.check_output(loop).split()]
    host.run_expect([0], f"{PSQL} 'drop table ticks'")
    host.run(f"backup remove-copy {APP}-copy")


def test_a_database_is_restored_to_a_second(machine: Machine, play: Play, ticks: list[float]) -> None:
    second = int(ticks[len(ticks) // 2])
    at = machine.host.check_output(f"date --date=@{second} '+%Y-%m-%d %H:%M:%S'")
    done = restore(play, "-e", f"at='{at}'", "-e", f"as={APP}-copy")
    assert done.code == 0, done.output
    assert f"The database is that of {at}" in done.output, done.output
    found = machine.host.check_output(f"{COPY} 'select extract(epoch from at) from ticks order by at'").split()
    assert [float(one) for one in found] == [one for one in ticks if one <= second]
    assert machine.host.check_output("ls -A /var/lib/backup-restore") == ""
    assert "archive" in machine.host.check_output("backup restic store snapshots")


def test_at_most_a_minute_is_lost_with_the_disk_of_the_host(machine: Machine, play: Play, ticks: list[float]) -> None:
    """The service that sends WAL ends a minute after the last row, as if the host was lost; only the target is used."""
    host = machine.host
    host.run_expect([0], "sleep 60; systemctl stop backup-archive@store")
    try:
        at = host.check_output("date '+%Y-%m-%d %H:%M:%S'")
        host.run_expect([0], "sleep 1")
        done = restore(play, "-e", f"at='{at}'", "-e", f"as={APP}-copy", "-e", "target=store")
        assert done.code == 0, done.output
        assert host.check_output(f"{COPY} 'select count(*) from ticks'") == str(len(ticks))
    finally:
        host.run_expect([0], "systemctl start backup-archive@store")


def test_a_stolen_host_can_only_add_wal(machine: Machine, store: Any, address: str) -> None:
    known = "-o UserKnownHostsFile=/etc/backup/known_hosts -o BatchMode=yes"
    ssh = f"timeout 20 ssh -i /etc/backup/ssh_key {known} backups-store@{address} archive"
    name = machine.host.check_output(f"{ssh} list </dev/null").splitlines()[0].split()[0]
    before = store.check_output("find /srv/backups/archives/web13 -type f | sort")
    for words in (f"delete {name}", f"put {name} 0", "get ../../.ssh/authorized_keys", "put ../x 0", "'; id'"):
        refused = machine.host.run(f"{ssh} {words} </dev/null")
        assert refused.rc != 0, words
        assert "uid=" not in refused.stdout
    assert set(before.split()) <= set(store.check_output("find /srv/backups/archives/web13 -type f").split())


def test_the_status_shows_the_age_of_the_newest_wal(machine: Machine, play: Play) -> None:
    shown = play("status")
    assert re.search(r"BACKUP +WAL", shown.output), shown.output
    found = status(machine)["archive"]
    assert found["gap"] is None, found
    assert found["waits"] == "", found
    assert found["since"] is not None, found
    assert found["targets"]["store"]["error"] == "", found


def test_a_bare_debian_restores_a_database_to_a_second_with_the_documented_commands(
    machine: Machine, store: Any, ticks: list[float]
) -> None:
    """On the host that keeps the backups, with PostgreSQL of the same version."""
    guide = (PROJECT / "docs/backups.md").read_text()
    commands = guide.partition("apt-get install --yes restic pgbackrest postgresql\n")[2].partition("```")[0]
    host, second = machine.host, int(ticks[len(ticks) // 2])
    host.run_expect([0], "backup base; systemctl start backup@all; sleep 50")
    password = host.check_output("cat /etc/backup/password")
    store.run_expect([0], "apt-get install --yes --no-install-recommends restic pgbackrest postgresql")
    store.run_expect([0], f"umask 077; echo '{password}' > /root/password")
    cipher = store.check_output("printf 'pgbackrest:%s' \"$(cat /root/password)\" | sha256sum | cut -d' ' -f1")
    restic = "restic --repo /srv/backups/repositories/web13 --password-file /root/password"
    listed = json.loads(store.check_output(f"{restic} snapshots --json --tag app:postgresql.cluster,kind:files"))
    info = json.loads(host.check_output("cd / && runuser -u postgres -- pgbackrest --stanza=main info --output=json"))
    before = [one for one in info[0]["backup"] if one["timestamp"]["stop"] <= second and not one.get("error")]
    replaced = {
        "restic …": restic,
        "ID-OF-ARCHIVE": listed[-1]["id"],
        "$(cat password)": "$(cat /root/password)",
        "THE-PASSWORD-OF-THE-ARCHIVE": cipher,
        "--set=LABEL": f"--set={max(before, key=lambda one: one['timestamp']['stop'])['label']}",
        "/archives/web1/": "/archives/web13/",
        "2026-01-02 03:04:05+00": store.check_output(f"date --utc --date=@{second} '+%Y-%m-%d %H:%M:%S+00'"),
    }
    for old, new in replaced.items():
        assert old in commands, old
        commands = commands.replace(old, new)
    try:
        store.run_expect([0], f"cd / && set -e\n{commands}")
        psql = f"cd / && until runuser -u postgres -- psql -d {APP} -XAtqc"
        found = store.check_output(f"timeout 60 sh -c \"{psql} 'select count(*) from ticks'; do sleep 1; done\"")
        assert found == str(len([one for one in ticks if one <= second]))
    finally:
        store.run("rm /root/password; apt-get purge --yes 'postgresql*' pgbackrest; rm -rf /var/lib/pgbackrest")
