#!/usr/bin/python
"""Make a release live: prove it beside the old one, switch, then let the old one finish."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_switch
short_description: Make a release of an app live
description:
  - Starts an instance of the release, C(NAME@RELEASE.service) on a socket of its own that systemd holds, and asks it
    for its health there. Only when it answers, C(ROOT/live) is pointed at it, in one step. nginx finds the
    socket through that link, so the very next request goes to the new instance.
  - Then the old instance finishes its requests and stops.
  - When the new one does not become healthy, it is stopped, the old one keeps serving, and the error carries the last
    lines of the app's own log.
options:
  name:
    description: Name of the app.
    type: str
    required: true
  root:
    description: Folder of the app.
    type: path
    required: true
  release:
    description: Id of the release to make live.
    type: str
    required: true
  health_path:
    description: What to ask the new instance for. Any answer from 200 to 399 is healthy.
    type: str
    default: /
  health_host:
    description: Host name to ask with.
    type: str
    default: localhost
  health_timeout:
    description: Seconds that the new instance may take to become healthy.
    type: int
    default: 30
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Make the release live
  release_switch:
    name: blueoctopus
    root: /srv/blueoctopus
    release: 20260102T030405Z-1f0c2d3e4b
    health_path: /healthz
"""

RETURN = r"""
previous:
  description: Id of the release that was live before; empty for the first one.
  returned: success
  type: str
"""

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

UNITS = Path("/etc/systemd/system")
PROBE_PAUSE = 0.1  # seconds between two looks at a starting instance
PROBE_TIMEOUT = 10  # seconds for one answer
MOST_RESTARTS = 2  # a new instance that crashed this often won't come up
QUIET = 0.5  # seconds without a waiting connection until an old instance may stop
LOG_LINES = 40


class SwitchError(Exception):
    """The new instance did not prove itself; the message says how it failed."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def systemctl(*argv: str, check: bool = True) -> str:
    """Call systemctl and return what it printed."""
    result = subprocess.run(["systemctl", *argv], capture_output=True, text=True)
    if check and result.returncode:
        raise SwitchError(f"systemctl {' '.join(argv)} failed: {(result.stderr or result.stdout).strip()}")
    return result.stdout.strip()


class Instance:
    """One running release: NAME@RELEASE, a socket and a service."""

    def __init__(self, name: str, root: Path, release: str) -> None:
        self.release = root / "releases" / release
        self.service = f"{name}@{release}.service"
        self.socket = f"{name}@{release}.socket"

    def is_running(self) -> bool:
        return systemctl("is-active", self.service, check=False) == "active"

    def is_enabled(self) -> bool:
        return systemctl("is-enabled", self.service, check=False) == "enabled"

    def others(self) -> list[Instance]:
        """The app's other instances on this host: the old one, and what an aborted deploy may have left."""
        name, root = self.service.split("@")[0], self.release.parent.parent
        found = (unit.name.split("@")[1].removesuffix(".service") for unit in UNITS.glob(f"{name}@*.service"))
        return [Instance(name, root, release) for release in sorted(found) if release != self.release.name]

    def start(self) -> None:
        """Start it, with the units that its release carries."""
        shutil.copyfile(self.release / "instance.service", UNITS / self.service)
        shutil.copyfile(self.release / "instance.socket", UNITS / self.socket)
        systemctl("daemon-reload")
        systemctl("reset-failed", self.service, self.socket, check=False)
        systemctl("start", self.socket)
        systemctl("start", "--no-block", self.service)

    def stop(self) -> None:
        """Let it finish what it has begun, then take away all of it but the release."""
        systemctl("stop", self.service, check=False)
        systemctl("stop", self.socket, check=False)
        systemctl("disable", "--quiet", self.service, self.socket, check=False)
        systemctl("reset-failed", self.service, self.socket, check=False)
        for unit in (self.service, self.socket):
            (UNITS / unit).unlink(missing_ok=True)
        systemctl("daemon-reload")

    def wait_until_healthy(self, path: str, host: str, timeout: int) -> None:
        """Ask until it answers well.

        Raises:
            SwitchError: when it keeps crashing, or has not answered well in time.
        """
        deadline = time.monotonic() + timeout
        seen = "no answer yet"
        while time.monotonic() < deadline:
            shown = systemctl("show", "--property=ActiveState,NRestarts", self.service)
            state = dict(line.split("=", 1) for line in shown.splitlines())
            if state["ActiveState"] == "failed" or int(state["NRestarts"]) >= MOST_RESTARTS:
                raise SwitchError("It stopped as soon as it was started.")
            if state["ActiveState"] == "active":
                patience = min(PROBE_TIMEOUT, max(1, deadline - time.monotonic()))
                status, seen = self.ask(path, host, patience)
                if 200 <= status < 400:
                    return
            time.sleep(PROBE_PAUSE)
        raise SwitchError(f"GET {path} did not answer well within {timeout} s: {seen}.")

    def ask(self, path: str, host: str, patience: float) -> tuple[int, str]:
        """Ask for one page; return its status (0 without an answer) and that in words."""
        try:
            connection = UnixConnection(str(self.release / "socket"), patience)
            with contextlib.closing(connection):
                connection.request("GET", path, headers={"Host": host, "User-Agent": "release_switch"})
                status = connection.getresponse().status
                return status, f"the last answer had status {status}"
        except (OSError, http.client.HTTPException) as error:
            return 0, f"the last try ended with {error or type(error).__name__}"

    def wait_for_quiet(self, timeout: float = 10) -> None:
        """Wait until nobody queues for its socket any more, so that stopping it turns nobody away."""
        with contextlib.suppress(OSError):
            self._wait_for_quiet(os.readlink(self.release / "socket"), timeout)

    def _wait_for_quiet(self, path: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        quiet_since = time.monotonic()
        while time.monotonic() < deadline and time.monotonic() - quiet_since < QUIET:
            shown = subprocess.run(["ss", "-xlnH"], capture_output=True, text=True).stdout
            rows = [line.split() for line in shown.splitlines()]
            if any(row[4] == path and int(row[2]) for row in rows if len(row) > 4):
                quiet_since = time.monotonic()
            time.sleep(0.05)

    def log(self, since: float) -> str:
        """The last lines that its own processes wrote since then."""
        written = ["journalctl", f"_SYSTEMD_UNIT={self.service}", f"--since=@{int(since)}", "--output=cat", "--quiet"]
        subprocess.run(["journalctl", "--sync"], capture_output=True)
        shown = subprocess.run(written, capture_output=True, text=True).stdout
        return "\n".join(f"  {line}" for line in own_words(shown)[-LOG_LINES:]) or "  (it wrote nothing)"


def own_words(log: str) -> list[str]:
    """The lines of a log without the tracebacks of gunicorn's master: that it gives up is not why."""
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
    return told + traceback


def point(live: Path, target: str) -> None:
    """Point the link at the target in one step: at no time is it missing."""
    beside = live.with_name(".live.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.replace(live)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "release": {"type": "str", "required": True},
            "health_path": {"type": "str", "default": "/"},
            "health_host": {"type": "str", "default": "localhost"},
            "health_timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    name, release, root = module.params["name"], module.params["release"], Path(module.params["root"])
    live = root / "live"
    previous = os.path.basename(os.readlink(live)) if live.is_symlink() else ""
    new = Instance(name, root, release)
    if previous == release and new.is_running() and new.is_enabled() and not new.others():
        module.exit_json(changed=False, previous=previous)

    result = {
        "changed": True,
        "previous": previous,
        "diff": {
            "before_header": f"live release of {name}",
            "after_header": f"live release of {name}",
            "before": f"{previous or 'none'}\n",
            "after": f"{release}\n",
        },
    }
    if module.check_mode:
        module.exit_json(**result)

    started = time.time()
    try:
        new.start()
        new.wait_until_healthy(
            module.params["health_path"], module.params["health_host"], module.params["health_timeout"]
        )
    except SwitchError as error:
        log = new.log(started)
        if previous != release:
            new.stop()
        keeps = f"{previous} keeps serving" if previous not in ("", release) else "no release is live"
        module.fail_json(
            msg=f"{name}: release {release} did not become healthy, so {keeps}. {error}\n"
            f"The last lines of its log:\n{log}\n"
            "Mend the app or its settings and deploy again.",
            previous=previous,
        )
    point(live, f"releases/{release}")
    systemctl("enable", "--quiet", new.service, new.socket)
    for old in new.others():
        old.wait_for_quiet()
        old.stop()
    module.exit_json(**result)


if __name__ == "__main__":
    main()
