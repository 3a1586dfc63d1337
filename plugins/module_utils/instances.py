"""A running release on a host: its systemd units, its health checks, its log."""

from __future__ import annotations

import contextlib
import http.client
import os
import queue
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ansible_collections.blueoctopus.site.plugins.module_utils.files import write
from ansible_collections.blueoctopus.site.plugins.module_utils.masking import mask, secret_values
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases, sync_folder

UNITS = Path("/etc/systemd/system")
UNIT_KINDS = (".timer", ".service", ".socket")  # in the order in which they are stopped
ANY_RELEASE = "[0-9]*T[0-9]*Z-*"  # a pattern for IDs
STAMPS = Path("/var/lib/systemd/timers")  # the last run of each persistent timer
CHECK_PAUSE = 0.1  # seconds between two health checks of a starting instance
CHECK_TIMEOUT = 10  # seconds for the response to a health check
COMMAND = "release-command"  # part of the name of the release command's unit


class NotReady(Exception):
    """A release failed.

    Args:
        reason: the message.
        advice: what to do, unless the log of the release says more.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.advice = advice


def systemctl(*argv: str, check: bool = False) -> str:
    """Call systemctl and return its output. Without `check`, errors are ignored: callers check the states of the units.

    Raises:
        OSError: with `check`, when it fails.
    """
    done = subprocess.run(["systemctl", *argv], capture_output=True, text=True)
    if check and done.returncode:
        raise OSError(f"systemctl {argv[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def build_unit(app: str, run: str) -> str:
    """Name of the unit that a build of an app runs in; `run` tells the builds of an app apart, or is * for all."""
    return f"release-build-{app}.{run}.service"  # no app has a point in its name


def stop_builds(app: str) -> None:
    """End builds of an app whose module was killed: systemd keeps them running."""
    systemctl("stop", build_unit(app, "*"))


# --- health checks ------------------------------------------------------------------------------------------------


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
    """HTTPS to this host under one of its names. The certificate is not verified: it may be a placeholder."""

    def __init__(self, name: str, port: int, timeout: float) -> None:
        super().__init__("127.0.0.1", port, timeout=timeout)
        self.name = name
        self.tls = ssl.create_default_context()
        self.tls.check_hostname = False
        self.tls.verify_mode = ssl.CERT_NONE

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), self.timeout)
        self.sock = self.tls.wrap_socket(plain, server_hostname=self.name)


def check_health(connection: http.client.HTTPConnection, path: str, host: str, release: str) -> str:
    """Send one request; return the problem, or an empty text when this release has responded with a good status.

    Args:
        connection: to the instance itself, or to nginx.
        path: path of the request; any status from 200 to 399 is good.
        host: value of the header Host.
        release: the release that must respond.
    """
    try:
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Host": host, "User-Agent": "health-check"})
            response = connection.getresponse()
            status, releases = response.status, response.headers.get_all("X-Release") or []
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"the last request failed: {error or type(error).__name__}"
    if not 200 <= status < 400:
        return f"the last response had status {status}"
    if release not in releases:
        return f"the last response came from {'release ' + releases[-1] if releases and releases[-1] else 'no release'}"
    return ""


# --- units --------------------------------------------------------------------------------------------------------


def death_of(shown: Mapping[str, str]) -> str:
    """What has died of a service since its start, from its properties in systemd; empty when nothing has."""
    if int(shown["NRestarts"] or 0) or shown["SubState"] in ("auto-restart", "auto-restart-queued", "failed"):
        return shown["Id"]
    workers = re.match(r"(\d+) workers? died", shown["StatusText"])
    return f"{workers[1]} worker{'s' * (workers[1] != '1')} of {shown['Id']}" if workers else ""


class Instance:
    """A running release: a web service on its socket, and background processes and timers.

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
        self.https = bool(about.get("https"))
        self.http_port, self.https_port = int(about.get("http_port", 80)), int(about.get("https_port", 443))

    @property
    def is_settled(self) -> bool:
        """Whether all its units run, and are enabled for the next boot."""
        lasting = [*self.web, *self.background]
        states = systemctl("is-active", *lasting).split() + systemctl("is-enabled", *lasting).split()
        return states == ["active"] * len(lasting) + ["enabled"] * len(lasting)

    def install(self) -> None:
        """Install the units in systemd; they are on the disk when this returns."""
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
        """Start the background processes and timers."""
        if self.background:
            systemctl("start", *self.background)

    def stop_background(self) -> None:
        """Stop the background processes and timers without waiting; they may finish their current work."""
        if self.background:
            systemctl("stop", "--no-block", *self.background)

    def enable(self, *units: str) -> None:
        """Enable units for the next boot; this is on the disk when this returns."""
        if units:
            systemctl("enable", "--quiet", "--no-reload", *units, check=True)
            for folder in UNITS.glob("*.wants"):
                sync_folder(folder)

    def find_deaths(self, background: bool = True) -> list[str]:
        """Everything that has died since the start: workers, the web service and, on request, background processes."""
        processes = self.processes if background else []
        found = []
        properties = "--property=Id,ActiveState,SubState,NRestarts,StatusText"
        for block in systemctl("show", properties, self.service, *processes).split("\n\n"):
            if death := death_of(dict(line.split("=", 1) for line in block.splitlines() if "=" in line)):
                found.append(death)
        states = systemctl("is-active", *processes).split() if processes else []
        found += [unit for unit, state in zip(processes, states, strict=False) if state == "inactive"]
        return list(dict.fromkeys(found))

    def has_ended(self) -> bool:
        """Whether the web service no longer runs, or has ended since the start; not while systemd still starts it."""
        shown = systemctl("show", "--property=ActiveState,Job", self.service)
        state = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        is_idle = state.get("ActiveState") in ("inactive", "failed", "deactivating") and not state.get("Job")
        return is_idle or bool(self.find_deaths(background=False))

    def run_check(self, check: Callable[[], str], background: bool) -> str:
        """Run a health check and return its result. Stop as soon as something dies: a request would wait for a restart.

        Raises:
            NotReady: with the names of the dead units.
        """
        found = queue.SimpleQueue[str]()
        threading.Thread(target=lambda: found.put(check()), daemon=True).start()
        while True:
            if dead := self.find_deaths(background):
                raise NotReady(f"{', '.join(dead)} died.")
            with contextlib.suppress(queue.Empty):
                return found.get(timeout=CHECK_PAUSE)

    def check_socket(self, timeout: float) -> str:
        """The problem of a health check on its own socket; empty when there is none. `timeout` is in seconds."""
        path = os.path.realpath(self.store.path(self.release) / "socket")
        connection = UnixConnection(path, timeout)
        return self.run_check(
            lambda: check_health(connection, self.health_path, self.host, self.release), background=False
        )

    def check_nginx(self) -> str:
        """The problem of a health check through nginx, over HTTPS when the site has it; empty when there is none."""
        if self.https:
            connection: http.client.HTTPConnection = TlsConnection(self.host, self.https_port, CHECK_TIMEOUT)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=CHECK_TIMEOUT)
        problem = self.run_check(
            lambda: check_health(connection, self.health_path, self.host, self.release), background=True
        )
        return f"The health check GET {self.health_path} through nginx failed: {problem}." if problem else ""

    def wait_until_healthy(self) -> None:
        """Run health checks on its own socket until one succeeds.

        Raises:
            NotReady: when a worker or the web service dies, or the health check does not succeed in time.
        """
        deadline = time.monotonic() + self.health_timeout
        problem = "no response yet"
        while time.monotonic() < deadline:
            if self.has_ended():
                raise NotReady("It stopped right after the start.")
            if systemctl("is-active", self.service) == "active":
                problem = self.check_socket(min(CHECK_TIMEOUT, max(1, deadline - time.monotonic())))
                if not problem:
                    return
            time.sleep(CHECK_PAUSE)
        advice = ""
        if "status 4" in problem:
            advice = "The app must answer this path, the key health_path, with a status from 200 to 399."
        elif "no response" in problem or "timed out" in problem:
            advice = "If the app needs longer to start, increase the key health_timeout."
        limit = f"{self.health_timeout:g} s"
        raise NotReady(f"The health check GET {self.health_path} did not succeed within {limit}: {problem}.", advice)

    def wait_until_drained(self) -> None:
        """Wait until no connection is queued on its socket, so that stopping it drops no request."""
        deadline = time.monotonic() + self.drain_timeout
        path = os.path.realpath(self.store.path(self.release) / "socket")
        while time.monotonic() < deadline:
            shown = subprocess.run(["ss", "-xlnH"], capture_output=True, text=True).stdout
            rows = [line.split() for line in shown.splitlines()]
            is_drained = not any(row[4] == path and int(row[2]) for row in rows if len(row) > 4)
            if is_drained or systemctl("is-active", self.service) != "active":
                return
            time.sleep(CHECK_PAUSE / 2)

    def log(self, since: float) -> str:
        """What its processes have logged since a time in seconds since 1970, without the app's secrets."""
        sources = [f"_SYSTEMD_UNIT={unit}" for unit in (self.service, *self.processes)]
        return self.mask(journal(*sources, f"--since=@{int(since)}"))

    def mask(self, text: str) -> str:
        """A text without the secrets of the release."""
        return mask(text, secret_values(self.store.path(self.release)))


def journal(*argv: str) -> str:
    """Entries of the journal, selected by arguments of journalctl."""
    subprocess.run(["journalctl", "--sync"], capture_output=True)
    command = ["journalctl", *argv, "--output=cat", "--quiet"]
    return subprocess.run(command, capture_output=True, text=True, errors="replace").stdout


def installed_units(name: str) -> dict[str, list[str]]:
    """The installed units of an app, by release. The name of a process follows a dot: NAME.PROCESS@ID."""
    found: dict[str, list[str]] = {}
    for pattern in (f"{name}@{ANY_RELEASE}", f"{name}.*@{ANY_RELEASE}"):
        for path in sorted(UNITS.glob(pattern)):
            if path.suffix in UNIT_KINDS:
                found.setdefault(path.stem.split("@", 1)[1], []).append(path.name)
    return found


def remove_units(units: list[str]) -> None:
    """Stop units gracefully, and remove them."""
    # A job that a timer has started may finish in its own release.
    jobs = {unit.replace(".timer", ".service") for unit in units if unit.endswith(".timer")}
    # Services before sockets: a service still handles the requests that are queued on its socket.
    for kind in UNIT_KINDS:
        chosen = [unit for unit in units if unit.endswith(kind) and unit not in jobs]
        if chosen:
            systemctl("stop", *chosen)
    systemctl("disable", "--quiet", "--no-reload", *units)
    systemctl("reset-failed", *units)
    for unit in units:
        (UNITS / unit).unlink(missing_ok=True)
        shutil.rmtree(UNITS / f"{unit}.d", ignore_errors=True)  # of systemctl edit
        (STAMPS / f"stamp-{unit}").unlink(missing_ok=True)
    systemctl("daemon-reload")


def stop_other_releases(store: Releases, release: str) -> None:
    """Drain and stop every other release, and remove its units."""
    for other, units in installed_units(store.name).items():
        if other != release:
            Instance(store, other).wait_until_drained()
            remove_units(units)
