#!/usr/bin/python
"""Make a release live: prove it beside the old one, switch, watch it, then let the old one finish."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_switch
short_description: Make a release of an app live
description:
  - Starts an instance of the release, C(NAME@RELEASE.service) on a socket of its own that systemd holds, and asks it
    for its health there. Only when it answers, C(ROOT/live) is pointed at it, in one step. nginx finds the socket
    through that link, so the very next request goes to the new instance.
  - Then it is asked for its health once more, through nginx, and watched for some seconds. When it answers badly or
    dies, C(ROOT/live) is pointed back at the old instance, which is still running.
  - Only then the old instance finishes its requests and stops, and releases beyond O(keep_releases) are removed.
  - When the new one fails at any point, it is removed, the old one keeps serving, and the error carries the last lines
    of the app's own log.
  - One deploy or rollback of an app is under way at a time. The lock is taken by M(release_build) or, for a rollback,
    by this module, and given back when this module is done or any of them has failed. It is stale, and taken over, when
    the run that took it, on the same control node, has died, or when it is an hour old.
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
    description: Id of the release to make live. With O(rollback), the last good one before the live one when left out.
    type: str
  rollback:
    description: Go back to a release that was live before; refuse any other.
    type: bool
    default: false
  health_path:
    description: What to ask for. Any answer from 200 to 399 is healthy.
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
  http_port:
    description: Port on which nginx is asked for the app's health after the switch.
    type: int
    default: 80
  https_port:
    description: Port on which nginx is asked by HTTPS instead; 0 for an app without TLS.
    type: int
    default: 0
  watch:
    description: Seconds after the switch in which a new instance that dies is taken back.
    type: int
    default: 3
  keep_releases:
    description: How many good releases to keep, the live one among them. The one before it is always kept.
    type: int
    default: 5
  take_over_lock:
    description: Go on although somebody else seems to be at it.
    type: bool
    default: false
  holder:
    description: Who takes the lock. Set by the action part of this module.
    type: dict
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

- name: Go back to the release before
  release_switch:
    name: blueoctopus
    root: /srv/blueoctopus
    rollback: true
    health_path: /healthz
"""

RETURN = r"""
release:
  description: Id of the release that is live now.
  returned: success
  type: str
previous:
  description: Id of the release that was live before; empty for the first one.
  returned: success
  type: str
removed:
  description: Ids of the releases that were pruned.
  returned: when something changed
  type: list
  elements: str
"""

import contextlib
import http.client
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.releases import BusyError, Releases, systemctl

PROBE_PAUSE = 0.1  # seconds between two looks at a starting instance
PROBE_TIMEOUT = 10  # seconds for one answer
MOST_RESTARTS = 2  # a new instance that crashed this often won't come up
ON_ITS_WAY = 0.2  # seconds after the switch in which a request may still come to the old instance
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


class TlsConnection(http.client.HTTPSConnection):
    """HTTPS to this machine under one of its names. The certificate is not the question here."""

    def __init__(self, name: str, port: int, timeout: float) -> None:
        super().__init__("127.0.0.1", port, timeout=timeout)
        self.name = name
        self.tls = ssl.create_default_context()
        self.tls.check_hostname = False
        self.tls.verify_mode = ssl.CERT_NONE

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), self.timeout)
        self.sock = self.tls.wrap_socket(plain, server_hostname=self.name)


def visitor(params: dict[str, Any]) -> Callable[[], http.client.HTTPConnection]:
    """How nginx is asked as visitors do: by HTTPS when its site has that by now, whatever the inventory wants."""
    site = Path(f"/etc/nginx/sites/{params['name']}.conf")
    if params["https_port"] and site.exists() and "ssl_certificate" in site.read_text():
        return lambda: TlsConnection(params["health_host"], params["https_port"], PROBE_TIMEOUT)
    return lambda: http.client.HTTPConnection("127.0.0.1", params["http_port"], timeout=PROBE_TIMEOUT)


def ask(connection: http.client.HTTPConnection, path: str, host: str) -> tuple[int, str]:
    """Ask for one page; return its status (0 without an answer) and that in words."""
    try:
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Host": host, "User-Agent": "release_switch"})
            status = connection.getresponse().status
            return status, f"the last answer had status {status}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return 0, f"the last try ended with {error or type(error).__name__}"


def is_healthy(status: int) -> bool:
    return 200 <= status < 400


class Instance:
    """One running release: a web service on its socket, and the processes and timers beside it."""

    def __init__(self, store: Releases, release: str) -> None:
        self.store = store
        self.release = release
        self.units = store.units(release)
        self.socket, self.service = f"{store.name}@{release}.socket", f"{store.name}@{release}.service"
        self.timers = [unit for unit in self.units if unit.endswith(".timer")]
        started_by_timer = [timer.replace(".timer", ".service") for timer in self.timers]
        web = (self.socket, self.service)
        self.processes = [u for u in self.units if u not in (*web, *self.timers, *started_by_timer)]
        # what runs, and comes back after a reboot
        self.lasting = [*web, *self.processes, *self.timers]

    def is_settled(self) -> bool:
        """Whether all of it runs, and would again after a reboot."""
        states = systemctl("is-active", *self.lasting).split() + systemctl("is-enabled", *self.lasting).split()
        return states == ["active"] * len(self.lasting) + ["enabled"] * len(self.lasting)

    def start_web(self) -> None:
        self.store.install(self.release)
        systemctl("start", self.socket)
        systemctl("start", "--no-block", self.service)

    def crashes(self, unit: str) -> tuple[str, int]:
        """A unit's state and how often systemd had to start it again."""
        shown = dict(
            line.split("=", 1) for line in systemctl("show", "--property=ActiveState,NRestarts", unit).splitlines()
        )
        return shown["ActiveState"], int(shown["NRestarts"])

    def wait_until_healthy(self, path: str, host: str, timeout: int) -> None:
        """Ask on its own socket until it answers well.

        Raises:
            SwitchError: when it keeps crashing, or has not answered well in time.
        """
        deadline = time.monotonic() + timeout
        seen = "no answer yet"
        while time.monotonic() < deadline:
            state, restarts = self.crashes(self.service)
            if state == "failed" or restarts >= MOST_RESTARTS:
                raise SwitchError("It stopped as soon as it was started.")
            if state == "active":
                patience = min(PROBE_TIMEOUT, max(1, deadline - time.monotonic()))
                own = os.path.realpath(self.store.path(self.release) / "socket")
                status, seen = ask(UnixConnection(own, patience), path, host)
                if is_healthy(status):
                    return
            time.sleep(PROBE_PAUSE)
        raise SwitchError(f"GET {path} did not answer well within {timeout} s: {seen}.")

    def watch(self, path: str, host: str, visit: Callable[[], http.client.HTTPConnection], seconds: int) -> None:
        """See it answer through nginx, and stay up for a while.

        Args:
            path: what to ask for.
            host: host name to ask with.
            visit: makes a connection to nginx.
            seconds: how long to watch.

        Raises:
            SwitchError: when it answers badly or dies.
        """
        before = {unit: self.crashes(unit)[1] for unit in (self.service, *self.processes)}
        deadline = time.monotonic() + max(seconds, ON_ITS_WAY)
        while True:
            last_look = time.monotonic() >= deadline
            status, seen = ask(visit(), path, host)
            if not is_healthy(status):
                raise SwitchError(f"GET {path} through nginx did not answer well after the switch: {seen}.")
            for unit, restarts in before.items():
                state, now = self.crashes(unit)
                if now > restarts or state == "failed":
                    raise SwitchError(f"{unit} died in the seconds after the switch.")
            if last_look:
                return
            time.sleep(min(5 * PROBE_PAUSE, max(0, deadline - time.monotonic())))

    def wait_for_quiet(self) -> None:
        """Wait until nobody queues for its socket any more, so that stopping it turns nobody away."""
        timeout = self.store.about(self.release).get("drain_timeout", 30)  # seconds
        path = os.path.realpath(self.store.path(self.release) / "socket")
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            shown = subprocess.run(["ss", "-xlnH"], capture_output=True, text=True).stdout
            rows = [line.split() for line in shown.splitlines()]
            if not any(row[4] == path and int(row[2]) for row in rows if len(row) > 4):
                return
            time.sleep(PROBE_PAUSE / 2)

    def log(self, since: float) -> str:
        """The last lines that its own processes wrote since then."""
        sources = [f"_SYSTEMD_UNIT={unit}" for unit in (self.service, *self.processes)]
        subprocess.run(["journalctl", "--sync"], capture_output=True)
        shown = subprocess.run(
            ["journalctl", *sources, f"--since=@{int(since)}", "--output=cat", "--quiet"],
            capture_output=True,
            text=True,
            errors="replace",
        ).stdout
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


def choose(store: Releases, release: str | None, rollback: bool) -> str:
    """The release to make live.

    Raises:
        SwitchError: when there is none to go back to; the message lists what there is.
    """
    if not rollback:
        if not release or release not in store.complete():
            raise SwitchError(f"there is no release {release}")
        return release
    there = "".join(
        f"\n  {r}  {store.about(r).get('commit', '')[:10]}{'  (live)' if r == store.live else ''}"
        for r in reversed(store.good())
    )
    target = release or store.previous()
    if not target:
        raise SwitchError(
            f"there is no good release before the live one. What was live and is kept:{there or ' nothing'}"
        )
    if target not in store.good():
        raise SwitchError(
            f"release {target} was never live here, or is gone. What was live and is kept:{there or ' nothing'}"
        )
    return target


def switch(store: Releases, new: Instance, params: dict[str, Any], path: str) -> None:
    """Prove the new instance, make it live and watch it.

    Raises:
        SwitchError: when it failed. Then the release before is live again.
    """
    # One that a cut-off run made live without proving it is nothing to go back to.
    back_to = store.live if store.live in store.good() else store.previous()
    new.start_web()
    new.wait_until_healthy(path, params["health_host"], params["health_timeout"])
    # Before the switch: a reboot in between then finds the live one among those that start.
    systemctl("enable", "--quiet", "--no-reload", new.socket, new.service)
    store.make_live(new.release)
    try:
        if new.processes:
            systemctl("start", *new.processes)
        new.watch(path, params["health_host"], visitor(params), params["watch"])
        if new.timers:
            systemctl("start", *new.timers)
        if new.processes or new.timers:
            systemctl("enable", "--quiet", "--no-reload", *new.processes, *new.timers)
        for unit in new.timers:
            if systemctl("is-active", unit) != "active":
                raise SwitchError(f"{unit} can't be started. Is its on_calendar right? Try: systemd-analyze calendar")
    except BaseException:
        if back_to and back_to != new.release:
            store.make_live(back_to)
        elif not back_to:
            store.no_live()
        raise


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "release": {"type": "str"},
            "rollback": {"type": "bool", "default": False},
            "health_path": {"type": "str", "default": "/"},
            "health_host": {"type": "str", "default": "localhost"},
            "health_timeout": {"type": "int", "default": 30},
            "http_port": {"type": "int", "default": 80},
            "https_port": {"type": "int", "default": 0},
            "watch": {"type": "int", "default": 3},
            "keep_releases": {"type": "int", "default": 5},
            "take_over_lock": {"type": "bool", "default": False},
            "holder": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    params = module.params
    name, action = params["name"], "rollback" if params["rollback"] else "deploy"
    store = Releases(name, params["root"])
    if not module.check_mode and (other := store.lock(params["holder"], params["take_over_lock"])):
        module.exit_json(locked_by=other)
    previous = store.live
    if module.check_mode and not params["rollback"]:
        target = params["release"]  # a release that check mode did not build can't be looked at
    else:
        try:
            target = choose(store, params["release"], params["rollback"])
        except SwitchError as error:
            if not module.check_mode:
                store.unlock()
            module.fail_json(msg=f"{name}: {error}")
    new = Instance(store, target)
    others = {release: units for release, units in store.installed().items() if release != target}
    result = {"changed": True, "release": target, "previous": previous}
    if previous == target and not others and new.is_settled():
        if not module.check_mode:
            store.unlock()
        module.exit_json(**result | {"changed": False})
    result["diff"] = {
        "before_header": f"live release of {name}",
        "after_header": f"live release of {name}",
        "before": f"{previous or 'none'}\n",
        "after": f"{target}\n",
    }
    if module.check_mode:
        module.exit_json(**result)

    started = time.time()
    # A release that went before is judged by what was its health check then.
    path = store.about(target).get("health_path") or params["health_path"]
    try:
        with store.busy():
            switch(store, new, params, path)
    except BusyError as error:
        module.fail_json(msg=f"{name}: {error}")
    except (SwitchError, OSError, KeyError) as error:
        log = new.log(started)
        if previous != target:
            store.uninstall(new.units)
            if target not in store.good():
                store.remove(target)
        store.note(action, target, "failed", str(error))
        store.unlock()
        keeps = f"{store.live} keeps serving" if store.live not in ("", target) else "no release is live"
        module.fail_json(
            msg=f"{name}: release {target} failed, so {keeps}. {error}\n"
            f"The last lines of its log:\n{log}\n"
            "Mend the app or its settings and deploy again.",
            previous=previous,
        )
    for release, units in others.items():
        Instance(store, release).wait_for_quiet()
        store.uninstall(units)
    store.note(action, target, "ok")
    result["removed"] = store.prune(params["keep_releases"])
    store.unlock()
    module.exit_json(**result)


if __name__ == "__main__":
    main()
