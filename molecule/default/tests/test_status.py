"""The status of the machines: table, exit code, JSON, report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from testing import Machine, Run

testinfra_hosts = ["ansible://webservers"]
Play = Callable[..., Run]
Status = Callable[..., tuple[Run, dict[str, Any]]]


@pytest.fixture
def stopped(machine: Machine) -> Iterator[str]:
    """The second app, stopped; its name."""
    units = f"echo@{machine.live('echo')}.service echo@{machine.live('echo')}.socket"
    with machine.host.sudo():
        machine.host.run_expect([0], f"systemctl stop {units}")
        yield "echo"
        machine.host.run_expect([0], f"systemctl start {units}")


def app_of(found: dict[str, Any], machine: Machine, name: str = "blueoctopus") -> dict[str, Any]:
    """What the JSON says about an app of the machine."""
    return next(dict(app) for app in found["hosts"][machine.name]["apps"] if app["name"] == name)


def kinds_of(found: dict[str, Any], app: str = "") -> set[str]:
    """The kinds of the problems of an app, or of the host."""
    return {problem["kind"] for problem in found["problems"] if problem["app"] == app}


# --- the table, the exit code, JSON -----------------------------------------------------------------------------------


def test_status_has_a_row_for_each_app(machine: Machine, status: Status) -> None:
    run, found = status()
    rows = [line.split() for line in run.output.splitlines() if f" {machine.name} " in f" {line} "]
    assert any({"blueoctopus", "active"} <= set(row) for row in rows), run.output
    assert any({"echo", "active"} <= set(row) for row in rows), run.output
    app = app_of(found, machine)
    assert app["live"] == machine.live("blueoctopus")
    assert app["workers"] > 0
    assert app["memory_mib"] > 10
    assert found["hosts"][machine.name]["updates"] is not None
    assert not kinds_of(found, "blueoctopus") & {"down", "absent", "unfinished"}


@pytest.mark.on("debian13")
def test_requests_are_counted_also_when_the_log_contains_garbage(machine: Machine, status: Status) -> None:
    with machine.host.sudo():
        machine.host.run_expect([0], "head -c 3000000 /dev/urandom >>/var/log/nginx/access.log")
    for _ in range(30):
        assert machine.web.ask("/").status == 200
    time.sleep(2)  # nginx writes its log once a second
    seen = app_of(status()[1], machine)["requests"]
    assert seen["requests"] >= 29  # the first one may stand in the last line of the garbage
    assert seen["p95_seconds"] is not None


@pytest.mark.on("debian13")
def test_an_app_that_is_down_is_a_problem_and_the_first_row(status: Status, stopped: str) -> None:
    run, found = status()
    assert run.code == 2
    assert "down" in kinds_of(found, stopped)
    assert "down: the web service is in the state inactive" in run.output
    marked = next(line for line in run.output.splitlines() if line.startswith("!"))
    assert "echo" in marked or kinds_of(found), run.output


@pytest.mark.on("debian13")
def test_a_host_that_does_not_answer_is_a_row_and_the_others_are_shown(
    machine: Machine, status: Status, tmp_path: Path
) -> None:
    lost = {"ansible_host": "127.0.0.1", "ansible_port": 9, "echo_domain": "echo.example", "echo_workers": 1}
    (tmp_path / "lost.yml").write_text(yaml.safe_dump({"webservers": {"hosts": {"lost": lost}}}))
    run, found = status("-i", str(tmp_path / "lost.yml"), limit=f"{machine.name},lost")
    assert run.code == 2
    assert found["hosts"]["lost"]["reachable"] is False
    assert app_of(found, machine)["state"] == "active"
    assert "unreachable" in next(line for line in run.output.splitlines() if line.startswith("!  lost "))


@pytest.mark.on("debian13")
def test_an_old_backup_and_a_failed_unit_are_problems(machine: Machine, status: Status) -> None:
    limits = {"backup": 50, "check": 340, "drill": 340}
    settings = {"apps": [{"name": "echo"}], "targets": [{"name": "store"}], "max_age": limits, "since": 0}
    made = {"echo": {"store": {"time": 1_577_836_800, "size": 5, "error": ""}}}  # in 2020
    content = json.dumps({"settings": settings, "backups": made})
    with machine.host.sudo():
        machine.host.run_expect(
            [0], f"mkdir -p /var/lib/backup/shared && echo '{content}' >/var/lib/backup/shared/status.json"
        )
        machine.host.run("systemd-run --unit=broken --service-type=oneshot false")
        try:
            _, found = status()
        finally:
            machine.host.run("rm -r /var/lib/backup; systemctl reset-failed broken")
    assert {"backup", "unit"} <= kinds_of(found)
    assert any(problem["subject"] == "broken.service" for problem in found["problems"])


# --- the report -------------------------------------------------------------------------------------------------------


@pytest.mark.on("debian13")
def test_the_report_is_one_page_with_all_apps(machine: Machine, status: Status, tmp_path: Path) -> None:
    machine.web.ask("/a/path?with=query")
    status("-e", f"report={tmp_path / 'report.html'}")
    page = (tmp_path / "report.html").read_text()
    for words in ("blueoctopus", "echo", machine.live("echo"), "deploy ok", "Requests a minute", "<svg"):
        assert words in page, words
    assert "<script" not in page
    assert "src=" not in page
