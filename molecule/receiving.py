"""A receiver of messages on a test machine, at http://127.0.0.1:9099/."""

from __future__ import annotations

import json
from typing import Any

from testinfra.host import Host
from testing import wait_for

MESSAGES = "/run/alerts-received"
PROGRAM = f"""
import http.server

class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open("{MESSAGES}", "ab") as file:
            file.write(body.strip() + b"\\n")
        self.send_response(204)
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", 9099), Receiver).serve_forever()
"""
UNIT = "[Service]\nExecStart=/usr/bin/python3 /run/receiver.py\n"


def start_receiver(host: Host) -> None:
    """Start the receiver, or start it again."""
    for path, text in {"/run/receiver.py": PROGRAM, "/run/systemd/system/alert-receiver.service": UNIT}.items():
        host.run_expect([0], f"cat >{path} <<'END'\n{text}END")
    host.run_expect([0], "systemctl daemon-reload && systemctl restart alert-receiver")
    wait_for(lambda: host.socket("tcp://127.0.0.1:9099").is_listening, 10, "the receiver listens")


def stop_receiver(host: Host) -> None:
    """Stop the receiver. What it has received stays."""
    host.run_expect([0], "systemctl stop alert-receiver")


def received_messages(host: Host) -> list[Any]:
    """The bodies of the messages so far, from JSON."""
    return [json.loads(line) for line in host.run(f"cat {MESSAGES}").stdout.splitlines()]


def forget_messages(host: Host) -> None:
    """Forget what was received."""
    host.run(f"rm -f {MESSAGES}")
