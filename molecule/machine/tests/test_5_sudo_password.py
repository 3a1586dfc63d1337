"""An administrator whose sudo asks for a password."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from testing import Door, Machine, Run

testinfra_hosts = ["ansible://sudo12"]
Play = Callable[..., Run]
PASSWORD = "it's secret"


@pytest.fixture
def with_settings(tmp_path: Path, machine: Machine) -> Callable[..., list[str]]:
    """Options for a playbook that set variables of the host."""

    def options(**variables: Any) -> list[str]:
        (tmp_path / "host_vars").mkdir(exist_ok=True)
        (tmp_path / "hosts.yml").write_text("---\n")
        (tmp_path / f"host_vars/{machine.name}.yml").write_text(yaml.safe_dump(variables))
        return ["-i", str(tmp_path)]

    return options


@pytest.fixture
def anna(machine: Machine, door: Door, play: Play, with_settings: Callable[..., list[str]]) -> Iterator[str]:
    """A user with a key, a password and Debian's group sudo; removed at the end, when debian administers again."""
    with machine.host.sudo():
        machine.host.run_expect([0], "useradd --create-home --groups sudo --shell /bin/bash anna")
        machine.host.run_expect([0], f'echo "anna:{PASSWORD}" | chpasswd')
        machine.host.run_expect([0], "cp -r ~debian/.ssh ~anna/ && chown -R anna: ~anna/.ssh")
    yield "anna"
    if not door.opens():
        again = {"ansible_user": "anna", "ansible_become_password": PASSWORD, "admin_user": "debian"}
        run = play("provision", *with_settings(**again))
        assert run.code == 0, run.output
    with machine.host.sudo():
        machine.host.run_expect([0], "userdel --remove --force anna 2>/dev/null")


def test_sudo_asks_for_a_password_until_the_inventory_disables_it(
    machine: Machine, door: Door, play: Play, anna: str, with_settings: Callable[..., list[str]]
) -> None:
    run = play("provision", *with_settings(admin_user=anna))
    assert run.code != 0
    assert "sudo asks anna for a password, and this run has none" in run.output
    assert door.opens()

    given = {"admin_user": anna, "ansible_become_password": PASSWORD}
    run = play("site", *with_settings(**given))
    assert run.code == 0, run.output
    assert PASSWORD not in run.output
    assert door.ssh("sudo -k -n true", anna).returncode != 0
    assert door.ssh(f"echo \"{PASSWORD}\" | sudo -k -S -p '' id -u", anna).stdout.strip() == "0"
    assert not door.opens()  # debian no longer administers
    run = play("site", *with_settings(**given))
    assert run.code == 0, run.output
    assert run.recap(machine.name)["changed"] == 0, run.output

    run = play("provision", *with_settings(**given, admin_passwordless_sudo=True))
    assert run.code == 0, run.output
    assert door.opens(anna)
