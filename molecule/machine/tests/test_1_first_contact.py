"""The first run of site.yml, on images like those of providers."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from testing import Door, Machine, Run

testinfra_hosts = ["ansible://webservers"]
Play = Callable[..., Run]

# Holds the lock of dpkg like apt does, until some seconds after cloud-init has finished.
HOLD = (
    "import fcntl, os; f = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(f, fcntl.LOCK_EX); "
    "os.system('until test -e /var/lib/cloud/instance/boot-finished; do sleep 1; done; sleep 8')"
)


def login_of_the_image(door: Door, variables: dict[str, str]) -> Callable[[str], str]:
    """Run commands as root, with the login that the image contains."""

    def run(command: str) -> str:
        wrapped = command if variables["ansible_user"] == "root" else f"sudo sh -c {shlex.quote(command)}"
        done = door.ssh(wrapped, variables["ansible_user"], 22)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_unusable_host_is_refused_and_not_changed(machine: Machine, door: Door, play: Play) -> None:
    run_as_root = login_of_the_image(door, machine.variables)
    if machine.name == "sudo12":
        run_as_root("useradd -m plain; cp -r ~debian/.ssh ~plain/; chown -R plain: ~plain/.ssh")
        run = play("site", "-e", "ansible_user=plain", "-e", "admin_user=plain")
        assert run.code != 0
        assert "plain can log in, but can't become root" in run.output
        assert "--ask-become-pass" in run.output
        run_as_root("userdel -rf plain 2>/dev/null")
    else:
        run = play("site", "--check")
        assert run.code != 0
        assert "has no Python yet, so --check can't check it" in run.output


def test_check_mode_reports_the_changes_of_the_first_run_and_makes_none(
    machine: Machine, door: Door, play: Play
) -> None:
    if machine.name != "sudo12":
        pytest.skip("without Python, --check is refused")
    run_as_root = login_of_the_image(door, machine.variables)
    state = "dpkg-query --show; getent passwd; ls /etc/systemd/system; ls -A /srv"
    before = run_as_root(f"touch /run/before; {state}")
    run = play("site", "--check", "--diff")
    assert run.code == 0, run.output
    assert run.recap(machine.name)["changed"] > 5, run.output
    assert "new: /etc/nginx/nginx.conf" in run.output, run.output
    lines = [line for line in run.output.splitlines() if not line.startswith("running: ")]  # more on a slow computer
    assert len(lines) <= 105, run.output  # two screens
    assert run_as_root(state) == before
    assert run_as_root("find /etc /srv /opt -newer /run/before") == ""


def test_first_run_waits_until_the_first_boot_has_finished(
    machine: Machine, door: Door, play: Play, tmp_path: Path
) -> None:
    run_as_root = login_of_the_image(door, machine.variables)
    if machine.name == "sudo12":
        # cloud-init does not run at the boot of a container.
        run_as_root(
            "cd /run/cloud-init && rm -f disabled && touch enabled && systemctl start --no-block cloud-init.target"
        )
        run_as_root(f"systemd-run --collect python3 -c {shlex.quote(HOLD)}")
    else:
        # sshd starts after the run has begun.
        late = "systemctl stop ssh.socket ssh.service; sleep 12; systemctl start ssh.socket"
        run_as_root(f"systemd-run --collect sh -c '{late}'")
    # No connection of an earlier test is used.
    run = play("site", environment={"ANSIBLE_SSH_CONTROL_PATH_DIR": str(tmp_path)})
    assert run.code == 0, run.output
    if machine.name == "sudo12":
        assert "sudo12: cloud-init is running" in run.output
        assert "holds the dpkg lock. Waiting up to" in run.output
    else:
        assert "port 22: Connection refused. Waiting up to" in run.output
    assert machine.web.ask("/").status == 200


def test_only_the_administrator_can_log_in(door: Door) -> None:
    assert door.opens()
    assert not door.opens("root")
    assert not door.opens(port=22)
    asked = door.ssh("true", "nobody").stderr
    assert "Permission denied (publickey)" in asked


@pytest.mark.parametrize("options", [[], ["--check", "--diff"]], ids=["run", "check mode"])
@pytest.mark.on("sudo12")
def test_second_run_changes_nothing_and_check_mode_agrees(machine: Machine, play: Play, options: list[str]) -> None:
    run = play("site", *options)
    assert run.code == 0, run.output
    assert run.recap(machine.name)["changed"] == 0, run.output
