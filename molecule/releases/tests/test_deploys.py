"""Successful deploys and rollbacks: no request fails."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testing import PROJECT, Machine, Run, commit_all, git, wait_for

testinfra_hosts = ["ansible://debian13"]
Deploy = Callable[..., Run]
Load = Callable[..., Any]
Play = Callable[..., Run]
DEPLOYS = int(os.environ.get("DEPLOYS", "5"))  # in a row, and a quarter as many rollbacks


@pytest.mark.alone
def test_deploys_and_rollbacks_in_a_row_drop_no_request(
    machine: Machine, deploy: Deploy, play: Play, load: Load
) -> None:
    cores = int(machine.host.check_output("nproc"))
    workers = 2 * cores + 1  # as without the key; the inventory of the scenario has fewer
    assert deploy("before the load", workers=workers).code == 0
    with load(connections=16, pause=0) as seen:
        for number in range(DEPLOYS):
            run = deploy(f"load-{number}", workers=workers)
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
    def kept() -> list[str]:
        with machine.host.sudo():
            return sorted(machine.host.check_output("ls -A /srv/shop/releases").split())

    for number in range(3 - len(kept())):  # none, after other tests
        assert deploy(f"kept-{number}").code == 0
    previous = machine.live("shop")
    assert deploy("that keeps two", keep_releases=2).code == 0
    assert kept() == [previous, machine.live("shop")]


def test_version_is_deployed_from_a_subfolder_of_a_git_repository(machine: Machine, deploy: Deploy, shop: Path) -> None:
    repository = shop.parent
    (shop / "version.txt").write_text("tagged\n")
    commit = commit_all(repository)
    git(repository, "tag", "v1")
    (shop / "version.txt").write_text("newer\n")
    commit_all(repository)
    run = deploy("not committed", source=f"file://{repository}", subfolder=shop.name, version="v1")
    assert run.code == 0, run.output
    assert machine.web.ask().json["version"] == "tagged"
    with machine.host.sudo():
        about = json.loads(machine.host.check_output("cat /srv/shop/live/release.json"))
    assert (about["commit"], about["version"]) == (commit, "v1")


def test_status_shows_the_state_of_the_app(machine: Machine, play: Play, tmp_path: Path) -> None:
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
    assert app["workers"] == 2
    assert app["memory_mib"] > 10
    assert app["history"][-1]["release"] == live
    assert app["history"][-1]["result"] == "ok"
    assert app["locked_by"] is None


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
        migrated = machine.host.file("/srv/shop/data/migrated").content_string
        assert migrated == f"shop migrated first {machine.live('shop')} 1\n"


def test_a_release_has_its_own_processes_timers_and_secrets_also_after_a_rollback(
    machine: Machine, deploy: Deploy, play: Play, shop: Path
) -> None:
    (shop / "work.py").write_text("import shop, time\nwhile True: print('working', shop.VERSION); time.sleep(1)\n")
    (shop / "clean.py").write_text(
        "import os, pathlib, shop, time\ndata = pathlib.Path(os.environ['DATA_DIR'])\n"
        "while not (data / 'end').exists(): time.sleep(0.1)\n(data / 'cleaned').write_text(shop.VERSION)\n"
    )
    beside = {
        "processes": [{"name": "mail", "command": "python work.py", "count": 2}],
        "timers": [{"name": "clean", "command": "python clean.py", "on_calendar": "daily"}],
    }

    def units() -> list[str]:
        shown = machine.host.check_output("systemctl list-units --plain --no-legend --state=active 'shop.*@*'")
        return sorted(line.split()[0] for line in shown.splitlines())

    def expected() -> list[str]:
        live = machine.live("shop")
        return [f"shop.clean@{live}.timer", f"shop.mail.1@{live}.service", f"shop.mail.2@{live}.service"]

    def cleaned() -> str:
        return str(machine.host.run("cat /srv/shop/data/cleaned").stdout)

    with machine.host.sudo():
        machine.host.run("rm -f /srv/shop/data/end /srv/shop/data/cleaned")
        run = deploy("beside-1", secrets={"SECRET_KEY": "abc"}, **beside)
        assert run.code == 0, run.output
        first = machine.live("shop")
        assert units() == expected()
        machine.host.run_expect([0], f"systemctl start --no-block shop.clean@{first}.service")

        run = deploy("beside-2", secrets={"SECRET_KEY": "abcdef"}, **beside)
        assert run.code == 0, run.output
        assert units() == expected()
        assert int(machine.host.check_output("pgrep --count --full --uid shop work.py")) == 2
        assert machine.web.ask().json["secret"] == 6
        # The job of the previous release still runs, and can finish.
        assert cleaned() == ""
        machine.host.run_expect([0], "touch /srv/shop/data/end")
        wait_for(lambda: cleaned() == "beside-1", 10, "the job of the previous release has finished")
        machine.host.run_expect([0], f"systemctl start shop.clean@{machine.live('shop')}.service")
        assert cleaned() == "beside-2"

    assert play("rollback", "-e", "app=shop").code == 0
    assert machine.live("shop") == first
    assert units() == expected()
    answer = machine.web.ask().json
    assert (answer["version"], answer["secret"]) == ("beside-1", 3)
    assert deploy("beside-none").code == 0
    assert units() == []


def test_the_example_play_of_the_role_rolls_back(machine: Machine, deploy: Deploy, play: Play, tmp_path: Path) -> None:
    for content in ("example-1", "example-2"):
        run = deploy(content)
        assert run.code == 0, run.output
    # The second example of the role, which also has an app shop. The scenario default runs the first one.
    example = (PROJECT / "roles/app/README.md").read_text().split("```yaml\n")[2].split("```")[0]
    (tmp_path / "example.yml").write_text(example)
    run = play(os.path.relpath(tmp_path / "example", PROJECT / "playbooks"))
    assert run.code == 0, run.output
    assert machine.web.ask().json["version"] == "example-1"


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
