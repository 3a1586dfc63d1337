"""A deploy is one transaction over two hosts: both switch to the new release, or none does."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deploying import with_callback
from testing import Door, Fleet, Machine, Run, after_the_switch, cut_off, wait_for

testinfra_hosts = ["ansible://debian13"]
BOTH = "webservers"
Deploy = Callable[..., Run]
Play = Callable[..., Run]
AtTask = Callable[[str, str], dict[str, str]]
KILL_STEP = int(os.environ.get("KILL_STEP", "6"))  # 2 kills the control node after each task, 6 after every third one
SWITCH, WATCH = "Switch nginx to the release", "Watch the release"

BOTH_HOSTS = ["debian12", "debian13"]
DIED = "failed (right|in the seconds) after the switch"  # "right": a busy host notices the death while it switches
# For each fault: a statement that breaks the release on one host, and parts of the error that the run must report.
ON_ONE_HOST = {
    "an import error": ("raise RuntimeError('only here')", "did not become ready", "RuntimeError: only here"),
    "a health check that fails after the switch": (
        after_the_switch("os.environ['BROKEN'] = 'yes'"),
        "through nginx failed: the last response had status 500",
        "",
    ),
    "a worker that is killed after the switch": (
        after_the_switch("os.kill(os.getpid(), 9)"),
        DIED,
        "",
    ),
    "a master that dies after the switch": (
        after_the_switch("os.kill(os.getppid(), 9)"),
        DIED,
        "",
    ),
}


def break_on(host: str, shop: Path, statement: str) -> None:
    """Make the app fail on one host only."""
    text = (shop / "shop.py").read_text()
    assert "app = Flask" in text
    indented = statement.replace("\n", "\n    ")
    broken = f"import socket\nif {host!r} in socket.gethostname():\n    {indented}\napp = Flask"
    healthy = 'return ("broken\\n", 500) if os.environ.get("BROKEN") else "ok\\n"'
    text = text.replace('return "ok\\n"', healthy)
    (shop / "shop.py").write_text(text.replace("app = Flask", broken))


def status_of(machine: Machine, name: str) -> int:
    """The status of a response for a domain; 0 when nginx has no site of that name and closes the connection."""
    try:
        return machine.web.ask(host=name).status
    except ConnectionResetError:
        return 0


@pytest.fixture
def alike(fleet: Fleet, deploy: Deploy) -> str:
    """Bring both hosts to the same release, unless they have it; returns the version that they serve."""
    if len(set(fleet.live())) > 1:
        assert deploy("alike", limit=BOTH).code == 0
    version, other = fleet.versions()
    assert version == other
    return version


@pytest.mark.parametrize(
    ("fault", "broken"),
    [(fault, host) for fault in ON_ONE_HOST for host in (BOTH_HOSTS if fault == "an import error" else ["debian12"])],
)
def test_failure_on_one_host_is_undone_on_both(
    fleet: Fleet, alike: str, deploy: Deploy, shop: Path, fault: str, broken: str
) -> None:
    live = fleet.live()
    statement, words, log = ON_ONE_HOST[fault]
    break_on(broken, shop, statement)
    run = deploy(f"broken on {broken}", limit=BOTH, domains=["site.example", "new.example"], watch_time=5)
    assert run.code != 0, run.output
    assert f"shop: the deploy failed on {broken} and was undone on every host." in run.output, run.output
    assert re.search(words, run.output), run.output
    assert log in run.output, run.output
    assert fleet.versions() == [alike] * 2
    assert fleet.live() == live
    assert fleet.left_overs() == []
    for machine, history in zip(fleet.machines, fleet.history(), strict=True):
        assert (history[-1]["result"], broken in history[-1]["reason"]) == ("failed", True)
        # The nginx site of the failed release is removed too.
        assert not status_of(machine, "new.example")


def test_release_command_that_fails_is_undone_on_both_hosts_at_once(fleet: Fleet, alike: str, deploy: Deploy) -> None:
    live = fleet.live()
    command = "python -c 'print(\"no such table\"); raise SystemExit(3)'"
    run = deploy("a bad migration", limit=BOTH, release_command=command)
    assert run.code != 0
    assert "shop: the deploy failed on debian13 and was undone on every host." in run.output, run.output
    assert "can't be reached" not in run.output, run.output
    assert "no such table" in run.output, run.output
    assert fleet.left_overs() == []
    assert [history[-1]["result"] for history in fleet.history()] == ["failed"] * 2
    assert fleet.live() == live
    assert fleet.versions() == [alike] * 2


def test_rollback_that_fails_on_one_host_is_undone_on_both(
    fleet: Fleet, deploy: Deploy, play: Play, shop: Path
) -> None:
    text = (shop / "shop.py").read_text()
    needs_file = "import os\nopen(os.path.join(os.environ['DATA_DIR'], 'needed'))\napp = Flask"
    (shop / "shop.py").write_text(text.replace("app = Flask", needs_file))
    for machine in fleet.machines:
        with machine.host.sudo():
            machine.host.run_expect([0], "install -o shop /dev/null /srv/shop/data/needed")
    assert deploy("needs a file", limit=BOTH).code == 0
    (shop / "shop.py").write_text(text)
    assert deploy("needs no file", limit=BOTH).code == 0
    live = fleet.live()
    with fleet.machines[1].host.sudo():
        fleet.machines[1].host.run_expect([0], "rm /srv/shop/data/needed")
    run = play("rollback", "-e", "app=shop", limit=BOTH)
    assert run.code != 0
    assert "shop: the rollback failed on debian12 and was undone on every host." in run.output, run.output
    assert "FileNotFoundError" in run.output, run.output
    assert fleet.left_overs() == []
    assert [history[-1]["result"] for history in fleet.history()] == ["failed"] * 2
    assert fleet.live() == live
    assert fleet.versions() == ["needs no file"] * 2
    assert "(rolled back from)" not in play("status", "-e", "app=shop", limit=BOTH).output


def test_host_repeats_an_undo_that_failed(
    fleet: Fleet, alike: str, deploy: Deploy, shop: Path, at_task: AtTask, door: Door
) -> None:
    live = fleet.live()
    failing = fleet.machines[1]
    break_on("debian12", shop, after_the_switch("os._exit(1)"))
    # nginx can't reload while its configuration is invalid.
    invalid = "/etc/nginx/sites/invalid.conf"
    login = ["-i", door.key, *door.options, f"{failing.variables['ansible_user']}@{failing.web.address}"]
    command = shlex.join(["ssh", *login, f"echo invalid | sudo tee {invalid}"])
    try:
        run = deploy(
            "an undo that fails",
            limit=BOTH,
            domains=["site.example", "new.example"],
            watch_time=5,
            environment=at_task("Restore the previous release", command),
        )
        assert run.code != 0
        assert re.search(r"after the switch\. .*shop@\S+ died", run.output), run.output
        assert "debian12 could not restore the previous release. The host tries again" in run.output, run.output
        assert fleet.machines[0].live("shop") == live[0]
    finally:
        with failing.host.sudo():
            failing.host.run_expect([0], f"rm -f {invalid}")
    wait_for(lambda: fleet.live() == live and not fleet.left_overs(), 60, "the hosts have the previous release")
    assert fleet.versions() == [alike] * 2
    assert not status_of(failing, "new.example")


def test_host_that_restarts_before_the_release_is_confirmed_returns_to_the_previous_release(
    fleet: Fleet, alike: str, deploy: Deploy, at_task: AtTask, door: Door
) -> None:
    live = fleet.live()
    restarting = fleet.machines[1]
    login = ["-i", door.key, *door.options, f"{restarting.variables['ansible_user']}@{restarting.web.address}"]
    command = shlex.join(["ssh", *login, "sudo systemd-run --on-active=0.5 systemctl reboot --force --force"])
    run = deploy("before a restart", limit=BOTH, watch_time=10, environment=at_task(WATCH, command))
    assert run.code != 0
    assert fleet.machines[0].live("shop") == live[0]
    wait_for(lambda: restarting.host.run("true").rc == 0, 60, "the host has restarted")
    wait_for(lambda: fleet.live() == live and not fleet.left_overs(), 60, "the hosts have the previous release")
    assert fleet.versions() == [alike] * 2
    assert [history[-1]["result"] for history in fleet.history()] == ["failed"] * 2


def test_process_that_ends_on_one_host_is_undone_on_both(fleet: Fleet, alike: str, deploy: Deploy) -> None:
    live = fleet.live()
    command = "python -c 'import socket, time; time.sleep(1 if \"debian12\" in socket.gethostname() else 600)'"
    run = deploy("a process that ends", limit=BOTH, processes=[{"name": "queue", "command": command}], watch_time=5)
    assert run.code != 0
    assert "shop: the deploy failed on debian12 and was undone on every host." in run.output, run.output
    assert "shop.queue.1@" in run.output, run.output
    assert fleet.left_overs() == []
    assert fleet.live() == live
    assert fleet.versions() == [alike] * 2


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
    if task == WATCH:
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
    killer = with_callback("die_after")
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
    assert results > 24
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
    assert any("has been locked by" in run.output for run in runs), [run.output for run in runs]
    won = any(run.code == 0 for run in runs)
    assert fleet.versions() == ["both at once" if won else alike] * 2
    assert fleet.left_overs() == []


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


def test_rolling_back_twice_goes_back_two_releases_on_both_hosts(
    fleet: Fleet, deploy: Deploy, play: Play, changed_app: Callable[..., list[str]], tmp_path: Path
) -> None:
    def verify(run: Run, version: str) -> None:
        """Both hosts serve this version; only v2 has the second domain, which redirects to the first one."""
        assert run.code == 0, run.output
        assert fleet.versions() == [version] * 2
        assert [status_of(machine, "new.example") for machine in fleet.machines] == [301 if version == "v2" else 0] * 2

    verify(deploy("v1", limit=BOTH), "v1")
    verify(deploy("v2", limit=BOTH, domains=["site.example", "new.example"]), "v2")
    verify(deploy("v3", limit=BOTH), "v3")
    third = fleet.live()[0]
    verify(play("rollback", "-e", "app=shop", limit=BOTH), "v2")
    # A rollback, the maintenance mode and the status use neither the source nor the certificate of the inventory.
    broken = changed_app("shop", source=str(tmp_path / "gone"), tls="provided", tls_certificate="none")
    verify(play("rollback", *broken, "-e", "app=shop", limit=BOTH), "v1")
    for state, status in (("on", 503), ("off", 200)):
        switched = play("maintenance", *broken, "-e", "app=shop", "-e", f"state={state}", limit=BOTH)
        assert switched.code == 0, switched.output
        assert [machine.web.ask().status for machine in fleet.machines] == [status] * 2
    shown = play("status", *broken, "-e", "app=shop", limit=BOTH).output
    assert len(re.findall(r"^.*debian1[23] +shop +active ", shown, re.MULTILINE)) == 2, shown
    assert f"live     {fleet.live()[0]}" in shown, shown
    assert third != fleet.live()[0]
    assert any("(rolled back from)" in line and third in line for line in shown.splitlines()), shown
    verify(play("rollback", "-e", "app=shop", "-e", f"release={third}", limit=BOTH), "v3")


def test_rollback_needs_a_release_that_every_host_has(fleet: Fleet, alike: str, deploy: Deploy, play: Play) -> None:
    assert deploy("on one", limit="debian13").code == 0
    lonely = fleet.live()[0]
    run = play("rollback", "-e", "app=shop", "-e", f"release={lonely}", limit=BOTH)
    assert run.code != 0
    assert f"Release {lonely} was never live on debian12" in run.output, run.output
    assert fleet.versions() == ["on one", alike]
    # Without the option `release`, both hosts get the last release that is good on both.
    assert play("rollback", "-e", "app=shop", limit=BOTH).code == 0
    assert fleet.versions() == [alike] * 2


def test_release_command_runs_on_one_host(fleet: Fleet, deploy: Deploy) -> None:
    command = 'python -c \'import os; open(os.path.expanduser("~/once"), "a").write("x")\''
    for machine in fleet.machines:
        with machine.host.sudo():
            machine.host.run("rm -f /srv/shop/data/once")
    assert deploy("a command on one host", limit=BOTH, release_command=command).code == 0
    contents = []
    for machine in fleet.machines:
        with machine.host.sudo():
            contents.append(machine.host.run("cat /srv/shop/data/once").stdout)
    assert sorted(contents) == ["", "x"]
