"""Helpers for the tests: access to the machines over the network, as a client and as the administrator."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testinfra.host import Host

PROJECT = Path(__file__).resolve().parent.parent
TIMEOUT = 60  # seconds for one response


@dataclass
class Answer:
    """The response to one request."""

    status: int
    headers: http.client.HTTPMessage  # the case of the names does not matter
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Web:
    """A machine's web server, requested over the network; with HTTPS if `tls` is given."""

    address: str
    port: int
    domain: str = field(default="site.example")
    tls: ssl.SSLContext | None = None

    def connect(self, name: str) -> http.client.HTTPConnection:
        """Open a connection for one of the server's host names."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=TIMEOUT)
        if self.tls:
            plain = socket.create_connection((self.address, self.port), TIMEOUT)
            connection.sock = self.tls.wrap_socket(plain, server_hostname=name)
        return connection

    def raw(self, path: str, encoding: str = "identity", **headers: str) -> http.client.HTTPResponse:
        """Send a GET request; return the response unread, and possibly compressed."""
        connection = self.connect(self.domain)
        connection.request("GET", path, headers={"Host": self.domain, "Accept-Encoding": encoding} | headers)
        return connection.getresponse()

    def ask(
        self,
        path: str = "/",
        method: str = "GET",
        headers: dict[str, str] | None = None,
        host: str | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Send one request; `host` is the Host header, by default the domain of the first app."""
        with contextlib.closing(self.connect(host or self.domain)) as connection:
            connection.request(method, path, body, {"Host": host or self.domain} | (headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read().decode())


@dataclass
class Machine:
    """One machine: its testinfra host, its variables in the inventory, and its web server."""

    name: str
    host: Host
    variables: dict[str, Any]
    web: Web

    def accepts(self, port: int) -> bool:
        """Whether the machine accepts a TCP connection from outside."""
        with contextlib.suppress(OSError), socket.create_connection((self.web.address, port), timeout=2):
            return True
        return False

    def live(self, app: str) -> str:
        """The ID of an app's live release; empty when it has none."""
        return str(self.host.run_expect([0, 1], f"readlink /srv/{app}/live").stdout.strip().split("/")[-1])


@dataclass
class Fleet:
    """Both machines of a scenario."""

    machines: list[Machine]

    def versions(self) -> list[str]:
        """The version that each machine serves."""
        return [str(machine.web.ask().json["version"]) for machine in self.machines]

    def live(self) -> list[str]:
        return [machine.live("shop") for machine in self.machines]

    def left_overs(self) -> list[str]:
        """What a run should have removed, on all machines: locks, incomplete releases, units of other releases."""
        found = []
        for machine in self.machines:
            live = machine.live("shop")
            with machine.host.sudo():
                shown = machine.host.check_output(
                    "cat /run/releases/shop/token 2>/dev/null; ls -A /srv/shop/releases | grep '^\\.'; "
                    f"ls /etc/systemd/system | grep '^shop[@.]' | grep -v '@{live}\\.'; "
                    "systemctl list-units --plain --no-legend 'release-build-shop.*' | cut -d' ' -f1; "
                    "ls /etc/nginx/.reload-pending 2>/dev/null; true"
                )
            found += [f"{machine.name}: {line}" for line in shown.split()]
        return found

    def history(self) -> list[list[dict[str, Any]]]:
        """The history of each machine."""
        histories = []
        for machine in self.machines:
            with machine.host.sudo():
                lines = machine.host.check_output("cat /srv/shop/history.jsonl").splitlines()
            histories.append([json.loads(line) for line in lines])
        return histories


class Door:
    """Logs in to a machine over SSH, with a new connection each time."""

    def __init__(self, variables: dict[str, Any]) -> None:
        self.address = str(variables["ansible_host"])
        self.port = int(variables.get("ssh_port", 22))
        self.user = "admin" if variables["ansible_user"] == "root" else str(variables["ansible_user"])
        self.key = str(variables["ansible_ssh_private_key_file"])
        self.options = [
            *str(variables["ansible_ssh_common_args"]).split(),
            *("-o", "BatchMode=yes", "-o", "ControlPath=none", "-o", "ConnectTimeout=3"),
            *("-o", "StrictHostKeyChecking=accept-new"),
        ]

    def ssh(
        self, command: str = "true", user: str = "", port: int = 0, terminal: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Log in and run a command; by default with the user and the port of the inventory."""
        login = ["-i", self.key, "-p", str(port or self.port), f"{user or self.user}@{self.address}"]
        login += ["-tt"] if terminal else []
        return subprocess.run(["ssh", *self.options, *login, command], capture_output=True, text=True)

    def opens(self, user: str = "", port: int = 0) -> bool:
        """Whether a login works, and can become root."""
        return self.ssh("sudo -n true" if user != "root" else "true", user, port).returncode == 0


@dataclass
class Run:
    """The result of a run of ansible-playbook."""

    code: int
    output: str

    def recap(self, host: str) -> dict[str, int]:
        """The counts of a host in the recap."""
        line = re.search(rf"^{host} +: (.*)$", self.output, re.MULTILINE)
        assert line, self.output
        return {key: int(count) for key, count in re.findall(r"(\w+)=(\d+)", line[1])}


def run_playbook(
    inventory: Path, playbook: str, *options: str, limit: str, environment: dict[str, str] | None = None
) -> Run:
    """Run a playbook like a user does, on the hosts of `limit`."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PY_COLORS"))}
    done = subprocess.run(
        ["ansible-playbook", f"playbooks/{playbook}.yml", "-i", str(inventory), "--limit", limit, *options],
        cwd=PROJECT,
        env=own | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Run(done.returncode, done.stdout)


def wait_for(what: Callable[[], Any], seconds: float, why: str) -> Any:
    """Wait until `what` returns a true value, and return it. The pauses grow, as each try may be a login."""
    began = time.monotonic()
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if result := what():
                return result
        waited = time.monotonic() - began
        if waited >= seconds:
            raise AssertionError(f"Not true within {seconds} s: {why}")
        time.sleep(min(2, max(0.2, waited / 10)))


@contextlib.contextmanager
def cut_off(machine: Machine) -> Iterator[str]:
    """Yield a command that disconnects the control node from a machine; reconnect them at the end."""
    route = f"blackhole {machine.web.address}/32"
    try:
        yield f"ip route replace {route}"
    finally:
        subprocess.run(["ip", "route", "delete", *route.split()], check=False, capture_output=True)


def after_the_switch(action: str) -> str:
    """Code for the start of an app: the statement `action` runs one second after the switch to its release."""
    return (
        "import os, threading, time\n\n\ndef act():\n"
        "    live = os.path.join(os.environ['RELEASE_DIR'], '../../../live')\n"
        "    while os.path.basename(os.path.realpath(live)) != os.environ['RELEASE']:\n"
        f"        time.sleep(0.05)\n    time.sleep(1)\n    {action}\n\n\n"
        "threading.Thread(target=act, daemon=True).start()\n"
    )


def git(folder: Path, *argv: str) -> str:
    """Run git in a folder and return its output."""
    own = ["-c", "user.name=tester", "-c", "user.email=tester@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", "-C", str(folder), *own, *argv], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit_all(folder: Path) -> str:
    """Commit a folder to a new repository in it, and return the commit ID."""
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=one")
    return git(folder, "rev-parse", "HEAD")
