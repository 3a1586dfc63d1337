"""Failed runs: they report the cause and change nothing. One machine is enough for these tests."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from testing import Machine, Run

testinfra_hosts = ["ansible://debian13"]
Play = Callable[..., Run]
ChangedApp = Callable[..., list[str]]
Running = Callable[[str], list[str]]


def lock(app: Path) -> str:
    return (app / "requirements.txt").read_text()


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a syntax error": (lambda app: (app / "main.py").write_text("app = (\n"), "SyntaxError: '(' was never closed"),
    "a missing module": (
        lambda app: (app / "main.py").write_text("import flask_of_wonders\n"),
        "ModuleNotFoundError: No module named 'flask_of_wonders'",
    ),
    "an unhealthy page": (
        lambda app: (app / "main.py").write_text(
            (app / "main.py").read_text().replace('"ok\\n", 200', '"sick\\n", 500')
        ),
        "the last response had status 500",
    ),
    "a wrong hash": (
        lambda app: (app / "requirements.txt").write_text(re.sub("sha256:....", "sha256:0000", lock(app))),
        "Hash mismatch for",
    ),
    "no gunicorn": (
        lambda app: (app / "requirements.txt").write_text("flask==3.1.3\n"),
        "gunicorn is not among the dependencies. Add it to requirements.txt.",
    ),
    "no requirements": (lambda app: (app / "requirements.txt").unlink(), "has no requirements.txt"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_deploy_of_a_broken_app_reports_the_cause_and_the_live_release_stays(
    machine: Machine, running: Running, play: Play, changed_app: ChangedApp, copy_of_app: Path, fault: str
) -> None:
    break_it, words = BROKEN[fault]
    break_it(copy_of_app)
    live = machine.live("blueoctopus")
    options = changed_app("blueoctopus", source=str(copy_of_app), health_timeout=8)
    run = play("deploy", "-e", "app=blueoctopus", *options)
    assert run.code != 0
    assert words in run.output, run.output
    assert machine.live("blueoctopus") == live
    assert machine.web.ask("/").status == 200
    assert running("blueoctopus") == [f"blueoctopus@{live}.service"]
    with machine.host.sudo():
        assert "building" not in machine.host.check_output("ls -A /srv/blueoctopus/releases")


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
