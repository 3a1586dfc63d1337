"""The status of the machines: table, exit code, JSON, report, and the alerts that a machine sends itself."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from testing import PROJECT, Machine, Run, Web, wait_for

testinfra_hosts = ["ansible://webservers"]
Play = Callable[..., Run]
Status = Callable[..., tuple[Run, dict[str, Any]]]
SCHEMA = json.loads((PROJECT / "docs/status.schema.json").read_text())
RECEIVER = """
import http.server

class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open("/run/alerts-received", "ab") as file:
            file.write(body + b"\\n")
        self.send_response(204)
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", 9099), Receiver).serve_forever()
"""


@pytest.fixture
def status(machine: Machine, play: Play, tmp_path: Path) -> Status:
    """Run the playbook; return the run and what it has written as JSON."""

    def run(*options: str, limit: str = machine.name) -> tuple[Run, dict[str, Any]]:
        done = play("status", "-e", f"json={tmp_path / 'status.json'}", *options, limit=limit)
        assert done.code in (0, 2), done.output
        found = json.loads((tmp_path / "status.json").read_text())
        jsonschema.validate(found, SCHEMA)
        assert done.code == (2 if found["problems"] else 0), done.output
        return done, found

    return run


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


def test_requests_are_counted_also_when_the_log_contains_garbage(machine: Machine, status: Status) -> None:
    with machine.host.sudo():
        machine.host.run_expect([0], "head -c 3000000 /dev/urandom >>/var/log/nginx/access.log")
    for _ in range(30):
        assert machine.web.ask("/").status == 200
    time.sleep(2)  # nginx writes its log once a second
    seen = app_of(status()[1], machine)["requests"]
    assert seen["requests"] >= 29  # the first one may stand in the last line of the garbage
    assert seen["p95_seconds"] is not None


def test_an_app_that_is_down_is_a_problem_and_the_first_row(status: Status, stopped: str) -> None:
    run, found = status()
    assert run.code == 2
    assert "down" in kinds_of(found, stopped)
    assert "down: the web service is inactive" in run.output
    marked = next(line for line in run.output.splitlines() if line.startswith("!"))
    assert "echo" in marked or kinds_of(found), run.output


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


def test_an_old_backup_and_a_failed_unit_are_problems(machine: Machine, status: Status) -> None:
    limits = {"backup": 50, "check": 340, "drill": 340}
    settings = {"apps": [{"name": "echo"}], "targets": [{"name": "store"}], "max_age": limits, "since": 0}
    made = {"echo": {"store": {"time": 1_577_836_800, "size": 5, "error": ""}}}  # in 2020
    content = json.dumps({"settings": settings, "backups": made})
    with machine.host.sudo():
        machine.host.run_expect([0], f"mkdir -p /var/lib/backup/shared && echo '{content}' >/var/lib/backup/shared/status.json")
        machine.host.run("systemd-run --unit=broken --service-type=oneshot false")
        try:
            _, found = status()
        finally:
            machine.host.run("rm -r /var/lib/backup; systemctl reset-failed broken")
    assert {"backup", "unit"} <= kinds_of(found)
    assert any(problem["subject"] == "broken.service" for problem in found["problems"])


# --- the report -------------------------------------------------------------------------------------------------------


def test_the_report_is_one_page_with_all_apps(machine: Machine, status: Status, tmp_path: Path) -> None:
    machine.web.ask("/a/path?with=query")
    status("-e", f"report={tmp_path / 'report.html'}")
    page = (tmp_path / "report.html").read_text()
    for words in ("blueoctopus", "echo", machine.live("echo"), "deploy ok", "Requests a minute", "<svg"):
        assert words in page, words
    assert "<script" not in page
    assert "src=" not in page


# --- alerts -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def receiver(machine: Machine) -> Iterator[Callable[[str], None]]:
    """Start and stop a receiver of messages on the machine."""

    def turn(verb: str) -> None:
        machine.host.run_expect([0], f"systemctl {verb} alert-receiver")

    unit = "[Service]\nExecStart=/usr/bin/python3 /run/receiver.py\n"
    with machine.host.sudo():
        for path, text in {"/run/receiver.py": RECEIVER, "/run/systemd/system/alert-receiver.service": unit}.items():
            machine.host.run_expect([0], f"cat >{path} <<'END'\n{text}END")
        machine.host.run_expect([0], "rm -f /run/alerts-received; systemctl daemon-reload")
        turn("start")
        wait_for(lambda: machine.host.socket("tcp://127.0.0.1:9099").is_listening, 10, "the receiver listens")
        yield turn
        machine.host.run("systemctl stop alert-receiver; rm /run/systemd/system/alert-receiver.service")
        machine.host.run("systemctl daemon-reload")


def test_alerts_are_sent_once_and_once_when_the_problem_is_over(
    machine: Machine, play: Play, status: Status, echo: Web, receiver: Callable[[str], None]
) -> None:
    settings = ["-e", '{"alert_webhook": "http://127.0.0.1:9099/", "alert_deploys": true}']

    def check(times: int = 2) -> None:
        for _ in range(times):
            machine.host.run_expect([0], "systemctl start alert.service")

    def received(kind: str, app: str = "") -> list[str]:
        lines = machine.host.run("cat /run/alerts-received").stdout.splitlines()
        found = [json.loads(line) for line in lines]
        return [entry["state"] for entry in found if (entry["kind"], entry["app"]) == (kind, app)]

    def failing_since() -> str:
        return str(status()[1]["hosts"][machine.name]["alerts"]["delivery"].get("failing_since", ""))

    units = f"echo@{machine.live('echo')}.service echo@{machine.live('echo')}.socket"
    try:
        run = play("provision", *settings)
        assert run.code == 0, run.output
        assert play("provision", *settings).recap(machine.name)["changed"] == 0
        check()
        machine.host.run_expect([0], f"systemctl stop {units}")
        check(4)
        assert received("down", "echo") == ["problem"]
        machine.host.run_expect([0], f"systemctl start {units}")
        wait_for(lambda: echo.ask("/").status == 200, 30, "the app responds again")
        check(4)
        assert received("down", "echo") == ["problem", "over"]

        # A receiver that is down gets the message later.
        receiver("stop")
        machine.host.run("systemd-run --unit=broken --service-type=oneshot false")
        check()
        assert failing_since()
        receiver("start")
        wait_for(lambda: received("unit") == ["problem"], 180, "the message is sent by the timer")
        assert not failing_since()
        machine.host.run_expect([0], "systemctl reset-failed broken")

        deployed = play("deploy", "-e", "app=echo", "-e", "rebuild=true")
        assert deployed.code == 0, deployed.output
        check(1)
        assert received("deploy", "echo") == ["event"]
    finally:
        machine.host.run("systemctl reset-failed broken")
        removed = play("provision")
    assert removed.code == 0, removed.output
    assert not machine.host.file("/etc/alert").exists
    assert machine.host.run("systemctl is-active alert.timer").stdout.strip() != "active"
    assert play("provision").recap(machine.name)["changed"] == 0
