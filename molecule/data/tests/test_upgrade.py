"""db13, which has the database of web12's guestbook, has PostgreSQL 15, as after an upgrade of Debian, and gets 17."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import testinfra
from data.guestbook import Guestbook
from testing import Machine, Run, wait_for

testinfra_hosts = ["ansible://web12"]
Play = Callable[..., Run]
ALL = "webservers:databases"


@pytest.fixture
def db(inventory: Path) -> Iterator[Any]:
    """The database host; commands run as root."""
    host = testinfra.get_host("ansible://db13", ansible_inventory=str(inventory))
    with host.sudo():
        yield host


def clusters(db: Any) -> list[list[str]]:
    """Version, name, port and status of each cluster."""
    return [line.split()[:4] for line in db.check_output("pg_lsclusters --no-header").splitlines()]


def sign(guestbook: Guestbook) -> str:
    """Sign the guestbook; return the message."""
    message = f"m{uuid4().hex[:8]}"
    assert message in guestbook.client.post("/entries", {"name": "Ada", "message": message}, "/").text
    return message


def test_the_former_version_is_managed_and_no_second_cluster_is_created(db: Any) -> None:
    assert db.package("postgresql-17").is_installed
    assert clusters(db) == [["15", "main", "5432", "online"]]


def test_postgresql_is_upgraded_with_all_rows_and_the_former_cluster_is_kept(
    guestbook: Guestbook, play: Play, db: Any, machine: Machine
) -> None:
    before = sign(guestbook)
    run = play("upgrade_postgresql", limit=ALL)
    assert run.code == 0, run.output
    assert "db13: PostgreSQL 15 was upgraded to 17" in run.output
    found = clusters(db)
    assert found[1] == ["17", "main", "5432", "online"]
    assert (found[0][0], found[0][3]) == ("15", "down")
    wait_for(lambda: guestbook.web.ask("/").status == 200, 15, "maintenance mode has ended")
    assert before in guestbook.client.get("/").text
    sign(guestbook)
    with machine.host.sudo():
        assert machine.host.run("ls /srv/*/maintenance").stdout == ""
        units = "'visitors@*.service' 'visitors.worker.1@*.service'"
        assert machine.host.check_output(f"systemctl is-active {units}").split() == ["active", "active"]
    assert db.check_output("cd / && runuser -u postgres -- psql -Atc 'show data_checksums'") == "on"


def test_the_archive_continues_with_a_base_backup_of_the_new_cluster(db: Any) -> None:
    found = json.loads(db.check_output("cat /var/lib/backup/shared/status.json"))["archive"]
    assert found["base_error"] == "", found
    assert found["bases"][-1]["start"][0].startswith("17-2/"), found


@pytest.mark.usefixtures("machine")
def test_a_second_upgrade_is_refused_and_another_run_of_site_yml_changes_nothing(play: Play) -> None:
    run = play("upgrade_postgresql", limit=ALL)
    assert run.code != 0
    assert "there is nothing to upgrade" in run.output
    run = play("site", limit="all")
    assert run.code == 0, run.output
    assert run.recap("db13")["changed"] == 0, run.output


def test_the_former_cluster_is_dropped_on_request(play: Play, db: Any) -> None:
    run = play("upgrade_postgresql", "-e", "drop_old=yes", limit=ALL)
    assert run.code == 0, run.output
    assert clusters(db) == [["17", "main", "5432", "online"]]
