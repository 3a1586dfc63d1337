"""Fixtures for the tests of monitoring: the monitor, and a receiver of its alerts."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import testinfra
from monitoring.monitor import Monitor
from testing import Machine, Web, wait_for

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
UNIT = "[Service]\nExecStart=/usr/bin/python3 /run/receiver.py\n"


@pytest.fixture
def monitor(inventory: Path) -> Iterator[Monitor]:
    """The monitor, with a receiver."""
    host = testinfra.get_host("ansible://monitor13", ansible_inventory=str(inventory))
    with host.sudo():
        for path, text in {"/run/receiver.py": RECEIVER, "/run/systemd/system/alert-receiver.service": UNIT}.items():
            host.run_expect([0], f"cat >{path} <<'END'\n{text}END")
        host.run_expect([0], "systemctl daemon-reload && systemctl start alert-receiver")
        wait_for(lambda: host.socket("tcp://127.0.0.1:9099").is_listening, 10, "the receiver listens")
        yield Monitor(host)


@pytest.fixture
def shown(machine: Machine) -> Web:
    """The app echo of the machine. Its certificate is self-signed."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    return Web(machine.web.address, 443, "echo.test", trusting)


@pytest.fixture
def root(machine: Machine) -> Callable[[str], str]:
    """Run a command on the machine as root; it must succeed."""

    def run(command: str) -> str:
        with machine.host.sudo():
            return str(machine.host.run_expect([0], command).stdout)

    return run
