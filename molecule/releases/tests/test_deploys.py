"""Successful deploys and rollbacks: no request fails."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testing import Machine, Run, commit_all, git, wait_for

testinfra_hosts = ["ansible://debian13"]
Deploy = Callable[..., Run]
Load = Callable[..., Any]
Play = Callable[..., Run]
DEPLOYS = int(os.environ.get("DEPLOYS", "5"))  # in a row, and a quarter as many rollbacks


@pytest.mark.alone
def test_deploys_and_rollbacks_in_a_row_drop_no_request(
    machine: Machine, deploy: Deploy, play: Play, load: Load
) -> None:
    assert deploy("before the load").code == 0
    with load(connections=16, pause=0) as seen:
        for number in range(DEPLOYS):
            run = deploy(f"load-{number}")
            assert run.code == 0, run.output
            assert machine.web.ask().json["version"] == f"load-{number}"
        for back in range(DEPLOYS // 4):
            run = play("rollback", "-e", "app=shop")
            assert run.code == 0, run.output
            assert machine.web.ask().json["version"] == f"load-{DEPLOYS - 2 - back}"
    print(seen)
    assert seen.failed == 0, seen
    assert seen.answered > 1000, seen
    assert seen.slowest < 1, seen


def test_old_releases_are_pruned_and_the_live_one_is_kept(machine: Machine, deploy: Deploy) -> None:
    for number in range(4):
        assert deploy(f"kept-{number}", keep_releases=3).code == 0
    with machine.host.sudo():
        kept = machine.host.check_output("ls -A /srv/shop/releases").split()
    assert len(kept) == 3
    assert machine.live("shop") in kept


def test_rollback_restores_environment_and_secrets(machine: Machine, deploy: Deploy, play: Play) -> None:
    assert deploy("env", secrets={"SECRET_KEY": "abc"}).code == 0
    first = machine.live("shop")
    run = deploy("env-2", secrets={"SECRET_KEY": "abcdef"})
    assert run.code == 0, run.output
    assert machine.web.ask().json["secret"] == 6
    assert play("rollback", "-e", "app=shop").code == 0
    assert machine.web.ask().json["secret"] == 3
    assert machine.live("shop") == first


def test_rollback_to_an_unknown_release_is_refused_and_lists_the_releases(machine: Machine, play: Play) -> None:
    live = machine.live("shop")
    run = play("rollback", "-e", "app=shop", "-e", "release=20200101T000000Z-0000000000")
    assert run.code != 0
    assert "was never live on debian13, or was removed there" in run.output
    assert f"{live}" in run.output
    assert "(live)" in run.output
    assert machine.live("shop") == live


def test_rollback_to_a_given_release(machine: Machine, deploy: Deploy, play: Play) -> None:
    assert deploy("certain").code == 0
    certain = machine.live("shop")
    for version in ("later", "latest"):
        assert deploy(version).code == 0
    assert play("rollback", "-e", "app=shop", "-e", f"release={certain}").code == 0
    assert machine.live("shop") == certain
    assert machine.web.ask().json["version"] == "certain"


def test_second_deploy_of_the_same_source_changes_nothing(machine: Machine, deploy: Deploy) -> None:
    assert deploy("same").code == 0
    run = deploy("same")
    assert run.recap(machine.name)["changed"] == 0, run.output


def test_status_shows_the_state_of_the_app(machine: Machine, deploy: Deploy, play: Play, tmp_path: Path) -> None:
    assert deploy("status").code == 0
    run = play("status", "-e", "app=shop", "-e", f"json={tmp_path / 'status.json'}")
    live = machine.live("shop")
    for words in (f"{machine.name} / shop", f"live     {live}", "active, ", " workers, ", "  deploy    ok  "):
        assert words in run.output, words
    status = json.loads((tmp_path / "status.json").read_text())
    # Requests that earlier tests let fail may still count.
    assert [problem for problem in status["problems"] if problem["app"] and problem["kind"] != "errors"] == [], (
        run.output
    )
    assert run.code == (2 if status["problems"] else 0)  # the disk of the computer that runs the tests may be full
    apps = status["hosts"][machine.name]["apps"]
    (app,) = [app for app in apps if app["name"] == "shop"]
    assert app["live"] == live == app["kept"][-1]
    assert app["died"] == []
    assert app["workers"] == 2 * int(machine.host.check_output("nproc")) + 1
    assert app["memory_mib"] > 10
    assert app["history"][-1]["release"] == live
    assert app["history"][-1]["result"] == "ok"
    assert app["locked_by"] is None


def test_version_is_deployed_from_a_git_repository(machine: Machine, deploy: Deploy, shop: Path) -> None:
    (shop / "version.txt").write_text("tagged\n")
    commit = commit_all(shop)
    git(shop, "tag", "v1")
    (shop / "version.txt").write_text("newer\n")
    commit_all(shop)
    run = deploy("not committed", source=f"file://{shop}", version="v1")
    assert run.code == 0, run.output
    assert machine.web.ask().json["version"] == "tagged"
    with machine.host.sudo():
        about = json.loads(machine.host.check_output("cat /srv/shop/live/release.json"))
    assert (about["commit"], about["version"]) == (commit, "v1")
    assert deploy("not committed", source=f"file://{shop}", version="main").code == 0
    assert machine.web.ask().json["version"] == "newer"


def test_release_command_runs_once_before_the_switch(machine: Machine, deploy: Deploy, shop: Path) -> None:
    (shop / "migrate.py").write_text(
        "import getpass, os, shop\n"
        "with open(os.path.expanduser('~shop/migrated'), 'a') as file:\n"
        "    print(getpass.getuser(), shop.VERSION, os.environ['GREETING'], os.environ['RELEASE'],\n"
        "          os.environ['TRUSTED_PROXIES'], file=file)\n"
    )
    with machine.host.sudo():
        machine.host.run("rm -f /srv/shop/data/migrated")
    for _ in range(2):
        run = deploy("migrated", release_command="python migrate.py")
        assert run.code == 0, run.output
    with machine.host.sudo():
        told = machine.host.file("/srv/shop/data/migrated").content_string
        assert told == f"shop migrated first {machine.live('shop')} 1\n"


def test_processes_and_timers_change_with_the_release(machine: Machine, deploy: Deploy, play: Play, shop: Path) -> None:
    (shop / "work.py").write_text("import shop, time\nwhile True: print('working', shop.VERSION); time.sleep(1)\n")
    (shop / "clean.py").write_text("import os, shop\nopen(os.path.expanduser('~/cleaned'), 'w').write(shop.VERSION)\n")
    beside = {
        "processes": [{"name": "mail", "command": "python work.py", "count": 2}],
        "timers": [{"name": "clean", "command": "python clean.py", "on_calendar": "daily"}],
    }

    def units() -> list[str]:
        shown = machine.host.check_output("systemctl list-units --plain --no-legend --state=active 'shop.*@*'")
        return [line.split()[0] for line in shown.splitlines()]

    def expected() -> list[str]:
        live = machine.live("shop")
        return [f"shop.clean@{live}.timer", f"shop.mail.1@{live}.service", f"shop.mail.2@{live}.service"]

    for version in ("beside-1", "beside-2"):
        run = deploy(version, **beside)
        assert run.code == 0, run.output
        assert sorted(units()) == expected()
    with machine.host.sudo():
        running = machine.host.check_output("pgrep --count --full --uid shop work.py")
        assert int(running) == 2
        machine.host.run_expect([0], f"systemctl start shop.clean@{machine.live('shop')}.service")
        assert machine.host.file("/srv/shop/data/cleaned").content_string == "beside-2"
    assert play("rollback", "-e", "app=shop").code == 0
    assert sorted(units()) == expected()
    assert machine.web.ask().json["version"] == "beside-1"
    assert deploy("beside-none").code == 0
    assert units() == []


def test_running_job_of_a_timer_finishes_after_a_deploy(machine: Machine, deploy: Deploy, shop: Path) -> None:
    (shop / "clean.py").write_text(
        "import os, time\nwhile not os.path.exists(os.path.expanduser('~/end')): time.sleep(0.1)\n"
        "open(os.path.expanduser('~/finished'), 'w')\n"
    )
    beside = {"timers": [{"name": "clean", "command": "python clean.py", "on_calendar": "daily"}]}
    assert deploy("job", **beside).code == 0
    with machine.host.sudo():
        machine.host.run_expect([0], f"systemctl start --no-block shop.clean@{machine.live('shop')}.service")
        assert deploy("job, next", **beside).code == 0
        assert not machine.host.file("/srv/shop/data/finished").exists
        machine.host.check_output("touch /srv/shop/data/end")
        wait_for(lambda: machine.host.file("/srv/shop/data/finished").exists, 10, "the job has finished")


@pytest.mark.alone
def test_killed_worker_fails_only_its_own_requests(machine: Machine, load: Load) -> None:
    with load(connections=64, pause=0) as seen:  # more than all threads, so that some requests always wait
        time.sleep(1)
        pid = machine.web.ask().json["pid"]
        with machine.host.sudo():
            machine.host.run_expect([0], f"kill -9 {pid}")
        time.sleep(2)
    print(seen)
    assert seen.failed <= 4, seen  # the number of its threads
    assert seen.connect == 0, seen


@pytest.mark.alone
def test_killed_master_is_restarted_and_no_connection_is_refused(machine: Machine, load: Load) -> None:
    with load(connections=16, pause=0) as seen:
        time.sleep(1)
        unit = f"shop@{machine.live('shop')}.service"
        with machine.host.sudo():
            machine.host.run_expect([0], f"systemctl kill --kill-whom=main --signal=KILL {unit}")
        wait_for(lambda: machine.web.ask().status == 200, 15, "the site responds again")
        time.sleep(2)
    assert seen.failed <= 16, seen  # requests that the workers were handling at that moment
    assert seen.connect == 0, seen
