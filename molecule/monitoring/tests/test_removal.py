"""The exporters are removed from a host when there is no monitor any more. Runs last."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from testing import Machine, Run

testinfra_hosts = ["ansible://web12"]


@pytest.fixture
def inventory(inventory: Path, tmp_path: Path) -> Path:
    """The inventory without its group monitors."""
    copy = Path(shutil.copytree(inventory, tmp_path / "inventory"))
    hosts = yaml.safe_load((copy / "hosts.yml").read_text())
    del hosts["monitors"]
    (copy / "hosts.yml").write_text(yaml.safe_dump(hosts))
    return copy


def test_without_a_monitor_the_exporters_are_removed(machine: Machine, play: Callable[..., Run]) -> None:
    run = play("provision")
    assert run.code == 0, run.output
    for package in ("node", "nginx", "exporter"):
        assert not machine.host.package(f"prometheus-{package}-exporter").is_installed
    for path in ("/etc/metrics", "/run/metrics", "/usr/local/lib/metrics", "/etc/systemd/system/metrics.timer"):
        assert not machine.host.file(path).exists
    assert not machine.host.socket("tcp://127.0.0.1:9114").is_listening
    with machine.host.sudo():
        assert "metrics" not in machine.host.check_output("ufw status")
    again = play("provision")
    assert again.recap(machine.name)["changed"] == 0, again.output
