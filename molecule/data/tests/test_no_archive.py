"""Point-in-time recovery of web13 is stopped, and set again. test_backups.py tests it while it runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from testing import Machine, Run, wait_for

testinfra_hosts = ["ansible://web13"]
Play = Callable[..., Run]
# Without the other webserver and the database host, which do not use this archive.
HOSTS = "web13,store13"
OFF = ["-e", '{"backup_point_in_time": false}']
SUPERUSER = "cd / && runuser -u postgres -- psql -XAtqc"
UNITS = "systemctl list-unit-files --no-legend 'backup-archive@*' 'backup-base*'"
RUNNING = "systemctl list-units --plain --no-legend 'backup-archive@*'"


@pytest.fixture(autouse=True)
def root(machine: Machine) -> Iterator[None]:
    """Run all commands on the machine as root."""
    with machine.host.sudo():
        yield


def test_an_archive_that_is_stopped_stays_where_it_is_and_continues_when_it_is_set_again(
    machine: Machine, play: Play
) -> None:
    host = machine.host
    snapshots = "backup restic store snapshots --json --tag app:postgresql.cluster"
    before = len(json.loads(host.check_output(snapshots)))
    identity = host.check_output("cat /var/lib/pgbackrest/id")
    try:
        run = play("site", *OFF, limit=HOSTS)
        assert run.code == 0, run.output
        assert host.check_output(f"{SUPERUSER} 'show archive_mode'") == "off"
        assert host.run(f"{UNITS}; {RUNNING}").stdout == ""
        assert not host.file("/etc/pgbackrest/pgbackrest.conf").exists
        assert host.check_output("cat /var/lib/pgbackrest/id") == identity
        host.check_output("systemctl start backup@guestbook")
        assert len(json.loads(host.check_output(snapshots))) == before > 0
        shown = play("status", *OFF)
        assert "WAL" not in shown.output, shown.output
        again = play("site", *OFF, limit=HOSTS)
        assert again.recap("web13")["changed"] == 0, again.output
        host.check_output(
            f"{SUPERUSER} 'create table off (n int)'; {SUPERUSER} 'drop table off; select pg_switch_wal()'"
        )
    finally:
        run = play("site", limit=HOSTS)
    assert run.code == 0, run.output
    assert host.check_output("cat /var/lib/pgbackrest/id") == identity
    assert host.check_output("systemctl is-active backup-archive@store") == "active"

    def archived() -> bool:
        found = json.loads(host.check_output("cat /var/lib/backup/shared/status.json"))["archive"]
        return found["targets"]["store"]["error"] == "" and found["archived"] > found["bases"][-1]["stop"] - 60

    wait_for(archived, 90, "the archive continues with a new base backup")
