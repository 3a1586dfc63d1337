"""The messages that a machine sends about its problems. One machine is enough for these tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from testing import Machine, Run, Web, wait_for

testinfra_hosts = ["ansible://debian13"]
Play = Callable[..., Run]
Status = Callable[..., tuple[Run, dict[str, Any]]]
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
