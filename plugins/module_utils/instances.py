"""A release as it runs on a host: its systemd units, its health, its log."""

from __future__ import annotations

import contextlib
import http.client
import os
import queue
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ansible_collections.blueoctopus.site.plugins.module_utils.files import write
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases, sync_folder

UNITS = Path("/etc/systemd/system")
STAMPS = Path("/var/lib/systemd/timers")  # when persistent timers ran last
PROBE_PAUSE = 0.1  # seconds between two probes of a starting instance
PROBE_TIMEOUT = 10  # seconds for one answer
LOG_LINES = 40
COMMAND = "release-command"  # names the unit of the release command


class NotReady(Exception):
    """A release did not prove itself; the message says how it failed."""


def systemctl(*argv: str) -> str:
    """Call systemctl and return what it printed; a failure shows in the units' states, where it is looked for."""
    return subprocess.run(["systemctl", *argv], capture_output=True, text=True).stdout.strip()


# --- probes -------------------------------------------------------------------------------------------------------


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class TlsConnection(http.client.HTTPSConnection):
    """HTTPS to this machine under one of its names. Whether the certificate is valid is not the question here."""

    def __init__(self, name: str, port: int, timeout: float) -> None:
        super().__init__("127.0.0.1", port, timeout=timeout)
        self.name = name
        self.tls = ssl.create_default_context()
        self.tls.check_hostname = False
        self.tls.verify_mode = ssl.CERT_NONE

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), self.timeout)
        self.sock = self.tls.wrap_socket(plain, server_hostname=self.name)


def probe(connection: http.client.HTTPConnection, path: str, host: str, release: str) -> str:
    """Ask for one page; what is wrong with the answer, or nothing when this release answered, and well.

    Args:
        connection: to the instance itself, or to nginx.
        path: what to ask for; any answer from 200 to 399 is good.
        host: host name to ask with.
        release: the release that has to answer.
    """
    try:
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Host": host, "User-Agent": "probe"})
            answer = connection.getresponse()
            status, by = answer.status, answer.headers.get_all("X-Release") or []
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"the last try ended with {error or type(error).__name__}"
    if not 200 <= status < 400:
        return f"the last answer had status {status}"
    if release not in by:
        return f"the last answer came from {'release ' + by[-1] if by and by[-1] else 'no release'}"
    return ""


# --- units --------------------------------------------------------------------------------------------------------


class Instance:
    """A release as it runs: a web service on its socket, and the processes and timers beside it.

    Args:
        store: the releases of the app.
        release: id of the release.
    """

    def __init__(self, store: Releases, release: str) -> None:
        self.store = store
        self.release = release
        names = sorted(path.name for path in (store.path(release) / "units").glob("*@.*"))
        self.units = [name.replace("@.", f"@{release}.") for name in names]
        self.socket, self.service = f"{store.name}@{release}.socket", f"{store.name}@{release}.service"
        self.command = f"{store.name}.{COMMAND}@{release}.service"
        self.timers = [unit for unit in self.units if unit.endswith(".timer")]
        jobs = [timer.replace(".timer", ".service") for timer in self.timers]
        self.web = [self.socket, self.service]
        self.processes = [unit for unit in self.units if unit not in (*self.web, *self.timers, *jobs, self.command)]
        self.background = [*self.processes, *self.timers]
        about = store.about(release)
        self.host, self.health_path = str(about.get("host", "localhost")), str(about.get("health_path", "/"))
        self.health_timeout = float(about.get("health_timeout", 30))  # seconds
        self.drain_timeout = float(about.get("drain_timeout", 30))  # seconds
        self.http_port, self.https_port = int(about.get("http_port", 80)), int(about.get("https_port", 443))

    @property
    def is_settled(self) -> bool:
        """Whether all of it runs, and would again after a reboot."""
        lasting = [*self.web, *self.background]
        states = systemctl("is-active", *lasting).split() + systemctl("is-enabled", *lasting).split()
        return states == ["active"] * len(lasting) + ["enabled"] * len(lasting)

    def install(self) -> None:
        """Give systemd the units, on the disk when this returns."""
        for unit in self.units:
            source = self.store.path(self.release) / "units" / unit.replace(f"@{self.release}.", "@.")
            write(UNITS / unit, source.read_text())
        sync_folder(UNITS)
        systemctl("daemon-reload")
        systemctl("reset-failed", *self.units)

    def start_web(self) -> None:
        self.install()
        systemctl("start", self.socket)
        systemctl("start", "--no-block", self.service)

    def start_background(self) -> None:
        """Start processes and timers."""
        if self.background:
            systemctl("start", *self.background)

    def stop_background(self) -> None:
        """Ask processes and timers to stop; they finish what they are at."""
        if self.background:
            systemctl("stop", "--no-block", *self.background)

    def enable(self, *units: str) -> None:
        """Have units start after a reboot, on the disk when this returns."""
        if units:
            systemctl("enable", "--quiet", "--no-reload", *units)
            for folder in UNITS.glob("*.wants"):
                sync_folder(folder)

    def find_deaths(self, beside: bool = True) -> list[str]:
        """What has died since it was started: workers, the web service and, if they count, the processes beside it."""
        processes = self.processes if beside else []
        found = []
        properties = "--property=Id,ActiveState,SubState,NRestarts,StatusText"
        for block in systemctl("show", properties, self.service, *processes).split("\n\n"):
            shown = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            if int(shown["NRestarts"] or 0) or shown["SubState"] in ("auto-restart", "auto-restart-queued", "failed"):
                found.append(shown["Id"])
            elif workers := re.match(r"(\d+) workers? died", shown["StatusText"]):
                found.append(f"{workers[1]} worker{'s' * (workers[1] != '1')} of {shown['Id']}")
        states = systemctl("is-active", *processes).split() if processes else []
        found += [unit for unit, state in zip(processes, states, strict=False) if state == "inactive"]
        return list(dict.fromkeys(found))

    def run_probe(self, probe: Callable[[], str], beside: bool) -> str:
        """What a probe finds. It is given up as soon as something dies: a request would wait for the next start.

        Raises:
            NotReady: naming what has died.
        """
        found = queue.SimpleQueue[str]()
        threading.Thread(target=lambda: found.put(probe()), daemon=True).start()
        while True:
            if dead := self.find_deaths(beside):
                raise NotReady(f"{', '.join(dead)} died.")
            with contextlib.suppress(queue.Empty):
                return found.get(timeout=PROBE_PAUSE)

    def probe_socket(self, timeout: float) -> str:
        """What is wrong with its answer on its own socket, or nothing; `timeout` in seconds."""
        path = os.path.realpath(self.store.path(self.release) / "socket")
        connection = UnixConnection(path, timeout)
        return self.run_probe(lambda: probe(connection, self.health_path, self.host, self.release), beside=False)

    def probe_nginx(self) -> str:
        """What is wrong with the answer that clients get, or nothing: by HTTPS when its site has that, else by HTTP."""
        if "ssl_certificate" in (self.store.path(self.release) / "site.conf").read_text():
            connection: http.client.HTTPConnection = TlsConnection(self.host, self.https_port, PROBE_TIMEOUT)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=PROBE_TIMEOUT)
        problem = self.run_probe(lambda: probe(connection, self.health_path, self.host, self.release), beside=True)
        return f"GET {self.health_path} through nginx did not answer well: {problem}." if problem else ""

    def wait_until_healthy(self) -> None:
        """Probe it on its own socket until it answers well.

        Raises:
            NotReady: when something of it dies, or it has not answered well in time.
        """
        deadline = time.monotonic() + self.health_timeout
        seen = "no answer yet"
        while time.monotonic() < deadline:
            if self.find_deaths(beside=False):
                raise NotReady("It stopped as soon as it was started.")
            if systemctl("is-active", self.service) == "active":
                seen = self.probe_socket(min(PROBE_TIMEOUT, max(1, deadline - time.monotonic())))
                if not seen:
                    return
            time.sleep(PROBE_PAUSE)
        raise NotReady(f"GET {self.health_path} did not answer well within {self.health_timeout:g} s: {seen}.")

    def wait_until_drained(self) -> None:
        """Wait until nobody queues for its socket any more, so that stopping it turns nobody away."""
        deadline = time.monotonic() + self.drain_timeout
        path = os.path.realpath(self.store.path(self.release) / "socket")
        while time.monotonic() < deadline:
            shown = subprocess.run(["ss", "-xlnH"], capture_output=True, text=True).stdout
            rows = [line.split() for line in shown.splitlines()]
            is_quiet = not any(row[4] == path and int(row[2]) for row in rows if len(row) > 4)
            if is_quiet or systemctl("is-active", self.service) != "active":
                return
            time.sleep(PROBE_PAUSE / 2)

    def log(self, since: float) -> str:
        """The last lines that its own processes wrote since then, a time in seconds since 1970."""
        sources = [f"_SYSTEMD_UNIT={unit}" for unit in (self.service, *self.processes)]
        return app_log(journal(*sources, f"--since=@{int(since)}"))


def journal(*argv: str) -> str:
    """What the journal holds, by journalctl's own arguments."""
    subprocess.run(["journalctl", "--sync"], capture_output=True)
    command = ["journalctl", *argv, "--output=cat", "--quiet"]
    return subprocess.run(command, capture_output=True, text=True, errors="replace").stdout


def app_log(log: str) -> str:
    """The last lines of a log, indented, without the tracebacks of gunicorn's master: that it gives up is not why."""
    told: list[str] = []
    traceback: list[str] = []
    for line in filter(None, log.splitlines()):
        if line.startswith("Traceback (most recent call last):"):
            told, traceback = told + traceback, [line]
        elif traceback and line.startswith(" "):
            traceback.append(line)
        elif line.startswith("gunicorn.errors.HaltServer"):
            traceback = []
        elif not line.startswith("During handling of the above exception"):
            told, traceback = [*told, *traceback, line], []
    return "\n".join(f"  {line}" for line in (told + traceback)[-LOG_LINES:]) or "  (it wrote nothing)"


def installed_units(name: str) -> dict[str, list[str]]:
    """The units of an app that systemd knows, by release. Names of processes follow a dot: NAME.PROCESS@ID."""
    found: dict[str, list[str]] = {}
    for pattern in (f"{name}@*", f"{name}.*@*"):
        for path in sorted(UNITS.glob(pattern)):
            release = path.name.split("@", 1)[1].rsplit(".", 1)[0]
            found.setdefault(release, []).append(path.name)
    return found


def remove_units(units: list[str]) -> None:
    """Stop units, letting them finish, and take them away."""
    # A job that a timer has started may finish, in the release it belongs to.
    jobs = {unit.replace(".timer", ".service") for unit in units if unit.endswith(".timer")}
    # Services first: a socket that is gone turns away whom its service could still have served.
    for kind in (".timer", ".service", ".socket"):
        chosen = [unit for unit in units if unit.endswith(kind) and unit not in jobs]
        if chosen:
            systemctl("stop", *chosen)
    systemctl("disable", "--quiet", "--no-reload", *units)
    systemctl("reset-failed", *units)
    for unit in units:
        (UNITS / unit).unlink(missing_ok=True)
        (STAMPS / f"stamp-{unit}").unlink(missing_ok=True)
    systemctl("daemon-reload")


def stop_other_releases(store: Releases, release: str) -> None:
    """Let every other release finish and stop, and take its units away."""
    for other, units in installed_units(store.name).items():
        if other != release:
            Instance(store, other).wait_until_drained()
            remove_units(units)
