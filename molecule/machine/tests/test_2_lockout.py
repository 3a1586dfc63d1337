"""Undo of changes that lock the administrator out, on two machines at a time, each with a change of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from testing import PROJECT, Door, Machine, Run, wait_for

testinfra_hosts = ["ansible://sudo12"]
Play = Callable[..., Run]
Neighbour = Callable[[str], Door]
LONGEST = 90  # seconds from the change until logins work again
PAUSE = 2  # seconds between two logins
BOTH = "sudo12,root13"

# Changes after which nobody can log in.
PORT: dict[str, Any] = {"ssh_port": 2345}  # a port that the fixture `doors` blocks
ELSEWHERE: dict[str, Any] = {"ssh_allow_users": ["admin@192.0.2.1"]}
OTHERS: dict[str, Any] = {"firewall_ssh_from": ["192.0.2.1"], "admin_addresses": []}


# Waits for the change. The callers complete the command and its quotes.
LOOK_OUT = "timeout 60 sh -c 'until test -e /var/lib/undo-lockout/armed; do sleep 0.05; done"
# The host then undoes a change after 35 seconds instead of 60: enough for the run to try its new login.
SOONER = "/run/systemd/system/undo-lockout.timer.d"
SOONER_TIMER = "[Timer]\nOnActiveSec=\nOnActiveSec=35\n"
# Connections as from the internet, which start sshd wherever ssh.socket listens.
STRANGERS = "bash -c 'while :; do : </dev/tcp/127.0.0.1/{}; sleep 0.1; done 2>/dev/null'"
BOOT = "stat --format %Y /proc/1"  # when the machine has booted; containers share the kernel's own boot time


class Watcher:
    """Tries to log in every two seconds with the settings before the change, and records the results."""

    def __init__(self, door: Door) -> None:
        self.seen: list[bool] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.watch, args=[door])

    def watch(self, door: Door) -> None:
        while not self.stop.wait(PAUSE):
            self.seen.append(door.opens())

    def was_locked_out_and_is_back(self) -> bool:
        return False in self.seen and self.seen[-1]

    def __enter__(self) -> Watcher:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


@pytest.fixture
def doors(neighbour: Neighbour) -> Iterator[list[Door]]:
    """The logins to both machines, to which strangers connect all the time.

    A firewall in front of them blocks port 2345, and their undo comes sooner.
    """
    doors = [neighbour(name) for name in BOTH.split(",")]
    closing = "sudo iptables -t raw {} PREROUTING -p tcp --dport 2345 -j DROP"
    sooner = f"sudo mkdir -p {SOONER} && echo '{SOONER_TIMER}' | sudo tee {SOONER}/sooner.conf"
    for door in doors:
        strangers = f"sudo systemd-run --quiet --collect --unit=strangers {STRANGERS.format(door.port)}"
        assert door.ssh(f"{closing.format('-A')} && {sooner} && {strangers}").returncode == 0
    yield doors
    for door in doors:
        removed = f"sudo systemctl stop strangers && sudo rm -r {SOONER}"
        assert door.ssh(f"{closing.format('-D')} && {removed}").returncode == 0


@pytest.fixture
def settings(tmp_path: Path, neighbour: Neighbour) -> Callable[..., list[str]]:
    """Change settings of each machine, and keep its current SSH port for the login; returns the options for `play`."""

    def write(**hosts: dict[str, Any]) -> list[str]:
        (tmp_path / "host_vars").mkdir()
        (tmp_path / "hosts.yml").write_text("---\n")
        for name, variables in hosts.items():
            present = {"ansible_port": neighbour(name).port}
            (tmp_path / f"host_vars/{name}.yml").write_text(yaml.safe_dump(present | variables))
        return ["-i", str(tmp_path)]

    return write


def login_settings(door: Door) -> str:
    """All settings that decide who can log in."""
    files = "/etc/ssh/sshd_config.d/10-hardening.conf /etc/systemd/system/ssh.socket.d/* /etc/sudoers.d/*"
    return door.ssh(f"sudo sh -c 'cat {files} ~/.ssh/authorized_keys; ufw show added; ufw status'").stdout


@pytest.mark.parametrize(
    ("one", "other"),
    [(PORT, ELSEWHERE), (OTHERS, PORT)],
    ids=["port, users", "firewall, port of ssh.socket"],
)
def test_change_that_locks_everybody_out_is_undone_by_the_host(
    play: Play, doors: list[Door], settings: Callable[..., list[str]], one: dict[str, Any], other: dict[str, Any]
) -> None:
    before = [login_settings(door) for door in doors]
    with Watcher(doors[0]) as first, Watcher(doors[1]) as second:
        run = play("provision", *settings(sudo12=one, root13=other), limit=BOTH)
        assert run.code != 0
        for door in doors:
            assert f"{door.user} can't log in on port" in run.output
        assert "The host undoes these changes automatically within a minute" in run.output
        for watcher in (first, second):
            wait_for(watcher.was_locked_out_and_is_back, LONGEST, "the administrator can log in again")
            print(f"logins, every {PAUSE} s:", "".join("." if worked else "!" for worked in watcher.seen))
            assert watcher.seen.count(False) * PAUSE < LONGEST
    assert [login_settings(door) for door in doors] == before


@pytest.mark.usefixtures("machine")  # else it would run last, and the next test needs what it leaves
def test_host_undoes_the_change_without_the_control_node_and_after_a_reboot(
    neighbour: Neighbour, inventory: Path, settings: Callable[..., list[str]]
) -> None:
    """The control node is killed between the change and the new login, and the second machine is also rebooted."""
    doors = [neighbour(name) for name in BOTH.split(",")]
    booted = doors[1].ssh(BOOT).stdout
    command = ["ansible-playbook", "playbooks/provision.yml", "-i", str(inventory), "--limit", BOTH]
    command += settings(sudo12={"ssh_port": 2346}, root13={"ssh_port": 2346})
    own = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    assert doors[1].ssh(f"sudo systemd-run --quiet {LOOK_OUT} && sleep 5 && systemctl reboot --force'").returncode == 0
    lookouts = [threading.Thread(target=door.ssh, args=[f"sudo {LOOK_OUT}'"]) for door in doors]
    for lookout in lookouts:
        lookout.start()
    run = subprocess.Popen(
        command,
        cwd=PROJECT,
        env=own | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    for lookout in lookouts:
        lookout.join()
    os.killpg(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    killed = time.monotonic()
    wait_for(lambda: not doors[0].opens(), 10, "the previous login no longer works")
    for door in doors:
        wait_for(door.opens, LONGEST, "the previous login works again")
    print(f"logins work again after {time.monotonic() - killed:.0f} s")
    assert doors[1].ssh(BOOT).stdout != booted


def test_next_run_completes_an_interrupted_one(machine: Machine, door: Door, play: Play) -> None:
    run = play("provision", limit=BOTH)
    assert run.code == 0, run.output
    with machine.host.sudo():
        assert not machine.host.file("/var/lib/undo-lockout/armed").exists
        assert machine.host.service("undo-lockout.timer").is_enabled
    assert door.opens()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-e", "ssh_port=80", "-e", "ansible_port=2222"], "nginx already listens on port 80"),
        (["-e", "admin_user=guest", "-e", '{"admin_keys": ["KEY"]}'], "The user guest already exists, with keys"),
        (["-e", "firewall_ssh_port=99"], "These rules would block all SSH logins"),
    ],
)
def test_settings_that_would_lock_everybody_out_are_refused_before_any_change(
    machine: Machine, door: Door, play: Play, options: list[str], words: str
) -> None:
    with machine.host.sudo():
        machine.host.run("useradd -m guest; mkdir -p ~guest/.ssh; ssh-keygen -q -t ed25519 -N '' -f /root/guest")
        machine.host.run_expect([0], "sh -c 'cp /root/guest.pub ~guest/.ssh/authorized_keys'")
        keys = machine.host.file("/home/guest/.ssh/authorized_keys").content_string
        own_key = Path(f"{door.key}.pub").read_text().strip()
        run = play("provision", *(option.replace("KEY", own_key) for option in options))
        assert run.code != 0
        assert words in run.output, run.output
        assert not machine.host.file("/var/lib/undo-lockout/armed").exists
        assert machine.host.file("/home/guest/.ssh/authorized_keys").content_string == keys
    assert door.opens()
