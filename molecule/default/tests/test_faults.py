"""Failed runs: they report the cause and change nothing. One machine is enough for these tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from testing import Machine, Run

testinfra_hosts = ["ansible://debian13"]
Play = Callable[..., Run]


def test_unreachable_host_stops_the_run_before_any_change(machine: Machine, play: Play, tmp_path: Path) -> None:
    second = tmp_path / "hosts.yml"
    second.write_text(
        "webservers:\n  hosts:\n    lost:\n      ansible_host: 127.0.0.1\n      ansible_port: 9\n"
        "      echo_domain: e.example\n      echo_workers: 1\n"
    )
    wanted = '{"base_extra_packages": ["hello"]}'
    run = play("site", "-i", str(second), "-e", wanted, "-e", "patience=0", limit=f"{machine.name},lost")
    assert run.code != 0
    assert "lost (127.0.0.1) can't be reached" in run.output, run.output
    assert not machine.host.package("hello").is_installed


def test_unsupported_system_is_refused_before_any_change(machine: Machine, play: Play) -> None:
    with machine.host.sudo():
        machine.host.run_expect([0], "cp -P /etc/os-release /root/os-release.saved && cp -L /etc/os-release /root/real")
        try:
            # The playbooks read the operating system from this file.
            machine.host.run_expect(
                [0], "rm /etc/os-release; sed 's/Debian/Ubuntu/g; s/^ID=.*/ID=ubuntu/' /root/real > /etc/os-release"
            )
            run = play("site", "-e", '{"base_extra_packages": ["hello"]}')
        finally:
            machine.host.run_expect([0], "mv /root/os-release.saved /etc/os-release")
    assert run.code != 0
    assert f"{machine.name} ({machine.web.address}) runs" in run.output, run.output
    assert "Debian 12 or 13 is required" in run.output
    assert not machine.host.package("hello").is_installed
