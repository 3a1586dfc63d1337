"""A host finishes by itself what a run could not finish there, in the direction in which the run ended."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from testing import Door, Fleet, Machine, Run, wait_for

testinfra_hosts = ["ansible://debian13"]
BOTH = "webservers"
CONFIRM, DRAIN, WATCH = "Confirm the release", "Drain the previous release and remove old releases", "Watch the release"
Deploy = Callable[..., Run]
AtTask = Callable[[str, str], dict[str, str]]


@pytest.fixture
def alike(fleet: Fleet, deploy: Deploy) -> list[str]:
    """Bring both hosts to the same release, unless they have it; returns the live releases."""
    if len(set(fleet.live())) > 1:
        assert deploy("alike", limit=BOTH).code == 0
    return fleet.live()


def on_host(door: Door, machine: Machine, command: str) -> str:
    """A command for the control node that runs a command as root on a machine."""
    login = ["-i", door.key, *door.options, f"{machine.variables['ansible_user']}@{machine.web.address}"]
    return shlex.join(["ssh", *login, f"sudo sh -c {shlex.quote(command)}"])


def read_only(path: str) -> str:
    """A command that makes a file or folder read-only until it is unmounted."""
    return f"mount --bind {path} {path} && mount -o remount,bind,ro {path}"


@contextlib.contextmanager
def mounted(machine: Machine, path: str) -> Iterator[None]:
    """At the end, unmount what the run has mounted."""
    try:
        yield
    finally:
        with machine.host.sudo():
            machine.host.run_expect([0], f"umount {path}")


def test_a_drain_that_failed_is_repeated_by_the_host(
    fleet: Fleet, alike: list[str], deploy: Deploy, at_task: AtTask, door: Door
) -> None:
    assert alike
    failing = fleet.machines[1]
    # It can't be removed, as something is mounted there.
    removed = "/srv/shop/releases/.removed-before"
    busy = on_host(door, failing, f"mkdir {removed} && mount -t tmpfs none {removed}")
    with mounted(failing, removed):
        run = deploy("a drain that fails", limit=BOTH, environment=at_task(DRAIN, busy))
        assert run.code == 0, run.output
        assert fleet.versions() == ["a drain that fails"] * 2
        assert any(removed.rpartition("/")[2] in line for line in fleet.left_overs())
    wait_for(lambda: not fleet.left_overs(), 60, "the host has removed what was left")
    assert fleet.versions() == ["a drain that fails"] * 2


def test_an_undo_that_failed_on_a_host_that_had_confirmed_the_release_is_repeated(
    fleet: Fleet, alike: list[str], deploy: Deploy, at_task: AtTask, door: Door
) -> None:
    confirmed, other = fleet.machines
    invalid, history = "/etc/nginx/sites/invalid.conf", "/srv/shop/history.jsonl"
    faults = [
        on_host(door, other, read_only(history)),  # it can't confirm the release
        on_host(door, confirmed, f"echo invalid > {invalid}"),  # nginx can't reload for the undo
    ]
    try:
        with mounted(other, history):
            run = deploy(
                "confirmed on one host",
                limit=BOTH,
                domains=["site.example", "new.example"],
                environment=at_task(CONFIRM, " && ".join(faults)),
            )
            assert run.code != 0
            assert ("deploy", "ok") in [(event["action"], event["result"]) for event in fleet.history()[0][-3:]]
    finally:
        with confirmed.host.sudo():
            confirmed.host.run_expect([0], f"rm -f {invalid}")
    wait_for(lambda: fleet.live() == alike and not fleet.left_overs(), 60, "the hosts have the previous release")


def test_a_run_that_took_over_a_lock_and_then_failed_leaves_no_unconfirmed_release(
    fleet: Fleet, alike: list[str], inventory: Path, deploy: Deploy, at_task: AtTask, door: Door, tmp_path: Path
) -> None:
    guards = "/var/lib/release-guards"
    failing = fleet.machines[1]
    playbook = f"{Path(sys.executable).parent}/ansible-playbook playbooks/rollback.yml -i {inventory} -l debian12"
    taking_over = f"{playbook} -e app=shop -e take_over_lock=true < /dev/null > {tmp_path}/second 2>&1; true"
    # The second run has no place for its guard, so it fails after it has taken the lock.
    faults = " && ".join([on_host(door, failing, read_only(guards)), taking_over])
    with mounted(failing, guards):
        run = deploy("taken over", limit=BOTH, watch_time=10, environment=at_task(WATCH, faults))
        assert run.code != 0
        assert "no longer has the lock" in run.output, run.output
        assert f"Read-only file system: '{guards}" in (tmp_path / "second").read_text()
        wait_for(lambda: fleet.live() == alike, 120, "the hosts have the previous release")
    wait_for(lambda: not fleet.left_overs(), 60, "nothing is left of the runs")
    assert fleet.live() == alike
    with failing.host.sudo():
        failing.host.run_expect([0], f"rm -f {guards}/*")  # the first run's guard could not remove itself
