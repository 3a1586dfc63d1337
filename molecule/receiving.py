"""A receiver of messages on a test machine, at http://127.0.0.1:9099/, and of mails, at port 9025."""

from __future__ import annotations

import json
from email import message_from_string, policy
from email.message import EmailMessage
from typing import Any

from testinfra.host import Host
from testing import wait_for

MESSAGES = "/run/alerts-received"
MAILS = "/run/mails-received"  # each as a string of JSON
PROGRAM = f"""
import http.server
import json
import socketserver
import threading

class MailReceiver(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 mail.test\\r\\n")
        while line := self.rfile.readline():
            word = line[:4].upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\\r\\n")
                lines = []
                while (part := self.rfile.readline()) not in (b".\\r\\n", b""):
                    lines.append(part)
                with open("{MAILS}", "a") as file:
                    file.write(json.dumps(b"".join(lines).decode(errors="replace")) + "\\n")
            self.wfile.write(b"221 bye\\r\\n" if word == b"QUIT" else b"250 ok\\r\\n")
            if word == b"QUIT":
                return

class MailServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True

class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open("{MESSAGES}", "ab") as file:
            file.write(body.strip() + b"\\n")
        self.send_response(204)
        self.end_headers()

threading.Thread(target=MailServer(("127.0.0.1", 9025), MailReceiver).serve_forever, daemon=True).start()
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


def received_mails(host: Host) -> list[EmailMessage]:
    """The mails so far."""
    lines = host.run(f"cat {MAILS}").stdout.splitlines()
    return [message_from_string(json.loads(line), policy=policy.default) for line in lines]


def forget_messages(host: Host) -> None:
    """Forget what was received."""
    host.run(f"rm -f {MESSAGES} {MAILS}")
