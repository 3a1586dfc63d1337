"""A deploy is one transaction over two hosts: both switch to the new release, or none does."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testing import PROJECT, Fleet, Machine, Run, after_the_switch, wait_for

testinfra_hosts = ["ansible://debian13"]
CALLBACKS = str(PROJECT / "molecule/releases/callbacks")
BOTH = "webservers"
Deploy = Callable[..., Run]
Play = Callable[..., Run]
AtTask = Callable[[str, str], dict[str, str]]
KILL_STEP = int(os.environ.get("KILL_STEP", "4"))  # 2 kills the control node after each task, 4 after every second one
SWITCH, WATCH = "Switch nginx to the release", "Watch the release"

# For each fault: a statement that breaks the release on one host, and parts of the error that the run must report.
ON_ONE_HOST = {
    "an import error": ("raise RuntimeError('only here')", "did not become ready", "RuntimeError: only here"),
    "a master that dies after the switch": (
        after_the_switch("os.kill(os.getppid(), 9)"),
        "in the seconds after the switch",
        "",
    ),
    "a worker that exits after the switch": (
        after_the_switch("os._exit(1)"),
        "in the seconds after the switch",
        "",
    ),
}


def break_on(host: str, shop: Path, statement: str) -> None:
    """Make the app fail on one host only."""
    text = (shop / "shop.py").read_text()
    assert "app = Flask" in text
    indented = statement.replace("\n", "\n    ")
    broken = f"import socket\nif {host!r} in socket.gethostname():\n    {indented}\napp = Flask"
    (shop / "shop.py").write_text(text.replace("app = Flask", broken))


@contextlib.contextmanager
def cut_off(machine: Machine) -> Iterator[str]:
    """Yield a command that disconnects the control node from a machine; reconnect them at the end."""
    route = f"blackhole {machine.web.address}/32"
    try:
        yield f"ip route add {route}"
    finally:
        subprocess.run(["ip", "route", "delete", *route.split()], check=False, capture_output=True)


def answers(machine: Machine, name: str) -> bool:
    """Whether nginx has a site of that name; without one, it closes the connection."""
    try:
        return machine.web.ask(host=name).status > 0
    except ConnectionResetError:
        return False


@pytest.fixture
def alike(fleet: Fleet, deploy: Deploy) -> str:
    """Bring both hosts to the same release, unless they have it; returns the version that they serve."""
    if len(set(fleet.live())) > 1:
        assert deploy("alike", limit=BOTH).code == 0
    version, other = fleet.versions()
    assert version == other
    return version


@pytest.mark.parametrize("fault", ON_ONE_HOST)
@pytest.mark.parametrize("broken", ["debian12", "debian13"])
def test_failure_on_one_host_is_undone_on_both(
    fleet: Fleet, alike: str, deploy: Deploy, shop: Path, fault: str, broken: str
) -> None:
    live = fleet.live()
    statement, words, log = ON_ONE_HOST[fault]
    break_on(broken, shop, statement)
    run = deploy(f"broken on {broken}", limit=BOTH, domains=["site.example", "new.example"], watch_time=5)
    assert run.code != 0, run.output
    assert f"shop: the deploy failed on {broken} and was undone on every host." in run.output, run.output
    assert words in run.output, run.output
    assert log in run.output, run.output
    assert fleet.versions() == [alike] * 2
    assert fleet.live() == live
    assert fleet.left_overs() == []
    for machine, history in zip(fleet.machines, fleet.history(), strict=True):
        assert (history[-1]["result"], broken in history[-1]["reason"]) == ("failed", True)
        # The nginx site of the failed release is removed too.
        assert not answers(machine, "new.example")


def test_new_domain_is_served_by_its_release_only(fleet: Fleet, deploy: Deploy, play: Play) -> None:
    assert deploy("one domain", limit=BOTH).code == 0
    assert deploy("two domains", limit=BOTH, domains=["site.example", "new.example"]).code == 0
    for machine in fleet.machines:
        assert machine.web.ask(host="new.example").status == 301
    assert play("rollback", "-e", "app=shop", limit=BOTH).code == 0
    for machine in fleet.machines:
        assert not answers(machine, "new.example")


@pytest.mark.parametrize("task", [SWITCH, WATCH])
def test_host_that_becomes_unreachable_returns_to_the_release_of_the_other(
    fleet: Fleet, alike: str, deploy: Deploy, at_task: AtTask, task: str
) -> None:
    live, vanishing = fleet.live(), fleet.machines[1]
    with cut_off(vanishing) as command:
        run = deploy("while a host vanishes", limit=BOTH, environment=at_task(task, command))
        assert run.code != 0
        assert "debian12 can't be reached. The host restores" in run.output, run.output
        assert fleet.machines[0].live("shop") == live[0]
    wait_for(lambda: fleet.live() == live and not fleet.left_overs(), 120, "the hosts have the previous release")
    assert fleet.versions() == [alike] * 2
    assert deploy("after a host vanished", limit=BOTH).code == 0
    assert fleet.versions() == ["after a host vanished"] * 2


@pytest.mark.parametrize("task", ["Build the release", WATCH, "Confirm the release"])
def test_hosts_undo_the_run_of_a_killed_control_node(
    fleet: Fleet, alike: str, deploy: Deploy, at_task: AtTask, task: str
) -> None:
    live = fleet.live()
    died = deploy("killed", limit=BOTH, environment=at_task(task, "KILL"))
    assert died.code == -9, died.output
    wait_for(lambda: fleet.live() == live and not fleet.left_overs(), 60, "the hosts have the previous release")
    assert fleet.versions() == [alike] * 2


def test_second_run_succeeds_after_the_control_node_died_after_any_task(
    fleet: Fleet, deploy: Deploy, load: Callable[..., Any]
) -> None:
    killer = {"ANSIBLE_CALLBACK_PLUGINS": CALLBACKS, "ANSIBLE_CALLBACKS_ENABLED": "die_after"}
    with load() as seen:
        # Odd numbers: after the first of the two hosts has run a task, when the hosts differ most.
        for results in itertools.count(1, KILL_STEP):
            died = deploy(f"death {results}", environment=killer | {"DIE_AFTER": str(results)}, limit=BOTH)
            if died.code == 0:
                break
            assert died.code == -9, died.output
            again = deploy(f"death {results}", limit=BOTH)
            assert again.code == 0, again.output
            assert fleet.versions() == [f"death {results}"] * 2
            assert fleet.live()[0] == fleet.live()[1]
            assert fleet.left_overs() == []
    print(seen, f"{results // KILL_STEP} deaths", os.linesep)
    assert results > 10
    assert seen.failed == 0, seen


def test_at_most_one_of_two_simultaneous_deploys_succeeds_and_both_hosts_get_its_release(
    fleet: Fleet, alike: str, deploy: Deploy
) -> None:
    runs: list[Run] = []
    others = [threading.Thread(target=lambda: runs.append(deploy("both at once", limit=BOTH))) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert any("is locked by" in run.output for run in runs), [run.output for run in runs]
    won = any(run.code == 0 for run in runs)
    assert fleet.versions() == ["both at once" if won else alike] * 2
    assert fleet.left_overs() == []
    assert deploy("both at once", limit=BOTH).code == 0


def test_run_fails_after_another_run_took_over_its_lock(fleet: Fleet, deploy: Deploy, at_task: AtTask) -> None:
    slow: list[Run] = []
    pause = at_task("Build the release", "sleep 15")
    first = threading.Thread(target=lambda: slow.append(deploy("the one that waits", limit=BOTH, environment=pause)))
    first.start()
    with fleet.machines[0].host.sudo():
        token = fleet.machines[0].host.file("/run/releases/shop/token")
        wait_for(lambda: token.exists, 20, "the first run has the lock")
    second = deploy("the one that takes over", "-e", "take_over_lock=true", limit=BOTH)
    first.join()
    assert second.code == 0, second.output
    assert slow[0].code != 0
    assert "no longer has the lock" in slow[0].output, slow[0].output
    assert len(set(fleet.live())) == 1
    assert fleet.left_overs() == []


def test_rolling_back_twice_goes_back_two_releases_on_both_hosts(fleet: Fleet, deploy: Deploy, play: Play) -> None:
    for version in ("v1", "v2", "v3"):
        assert deploy(version, limit=BOTH).code == 0
    third = fleet.live()[0]
    for expected in ("v2", "v1"):
        run = play("rollback", "-e", "app=shop", limit=BOTH)
        assert run.code == 0, run.output
        assert fleet.versions() == [expected] * 2
    shown = play("status", "-e", "app=shop", limit=BOTH).output
    assert f"live     {fleet.live()[0]}" in shown, shown
    assert third != fleet.live()[0]
    assert any("(rolled back from)" in line and third in line for line in shown.splitlines()), shown
    assert play("rollback", "-e", "app=shop", "-e", f"release={third}", limit=BOTH).code == 0
    assert fleet.versions() == ["v3"] * 2


def test_rollback_needs_a_release_that_every_host_has(fleet: Fleet, deploy: Deploy, play: Play) -> None:
    assert deploy("on both", limit=BOTH).code == 0
    assert deploy("on one", limit="debian13").code == 0
    lonely = fleet.live()[0]
    run = play("rollback", "-e", "app=shop", "-e", f"release={lonely}", limit=BOTH)
    assert run.code != 0
    assert f"Release {lonely} was never live on debian12" in run.output, run.output
    assert fleet.versions() == ["on one", "on both"]
    # Without the option `release`, both hosts get the last release that is good on both.
    assert play("rollback", "-e", "app=shop", limit=BOTH).code == 0
    assert fleet.versions() == ["on both"] * 2


def test_rollback_uses_neither_the_source_nor_other_apps(
    fleet: Fleet, deploy: Deploy, play: Play, changed_app: Callable[..., list[str]], tmp_path: Path
) -> None:
    for version in ("earlier", "later"):
        assert deploy(version, limit=BOTH).code == 0
    broken: dict[str, Any] = {"source": str(tmp_path / "gone"), "tls": "provided", "tls_certificate": "none"}
    for playbook, options in {"rollback": ["-e", "app=shop"], "status": []}.items():
        run = play(playbook, *changed_app("shop", **broken), *options, limit=BOTH)
        assert run.code == 0 or playbook == "status", run.output
    assert len(re.findall(r"^.*debian1[23] +shop +active ", run.output, re.MULTILINE)) == 2, run.output
    assert fleet.versions() == ["earlier"] * 2


def test_release_command_runs_on_one_host(fleet: Fleet, deploy: Deploy) -> None:
    command = 'python -c \'import os; open(os.path.expanduser("~/once"), "a").write("x")\''
    for machine in fleet.machines:
        with machine.host.sudo():
            machine.host.run("rm -f /srv/shop/data/once")
    assert deploy("a command on one host", limit=BOTH, release_command=command).code == 0
    told = []
    for machine in fleet.machines:
        with machine.host.sudo():
            told.append(machine.host.run("cat /srv/shop/data/once").stdout)
    assert sorted(told) == ["", "x"]
