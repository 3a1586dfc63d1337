"""The state of an app on a host. What needs root is missing for other users: alerts are checked without it."""

from __future__ import annotations

import calendar
import contextlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.blueoctopus.site.plugins.module_utils.app_log import find_cause
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import (
    COMMAND,
    death_of,
    installed_units,
    journal,
    systemctl,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.masking import mask, secret_values
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import Lock
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases

APPS = Path("/srv")
CERTIFICATES = Path("/var/lib/certificates")
CGROUPS = Path("/sys/fs/cgroup")
HAPROXY = Path("/etc/haproxy/haproxy.cfg")
BALANCED = Path("/etc/certificates")  # the settings of the certificates that a balancer requests
RECENT = 900  # seconds in which a death counts as a problem
PROPERTIES = "Id,ActiveState,SubState,NRestarts,StatusText,MainPID,ControlGroup,MemoryMax,ActiveEnterTimestampMonotonic"
# gunicorn's log messages about the unexpected end of a worker.
DEATH = re.compile(r"Worker \(pid:\d+\) (?:exited with code|was sent SIG(?!TERM))|WORKER TIMEOUT")


def show_units(units: list[str]) -> list[dict[str, str]]:
    """The properties of services in systemd, in the same order."""
    shown = systemctl("show", f"--property={PROPERTIES}", *units) if units else ""
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in shown.split("\n\n")]
    return [block for block in blocks if "Id" in block]


def services_of(name: str, live: str) -> list[str]:
    """The services of a release that always run: the web service first, then the processes."""
    units = installed_units(name).get(live, [])
    jobs = {unit.replace(".timer", ".service") for unit in units if unit.endswith(".timer")}
    services = [unit for unit in units if unit.endswith(".service") and unit not in jobs]
    web = f"{name}@{live}.service"
    return [web, *(unit for unit in services if unit != web and not unit.startswith(f"{name}.{COMMAND}@"))]


def children_of(main: str) -> list[str]:
    """The process IDs of the children of a process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{main}/task/{main}/children").read_text().split()
    return []


def memory_of(unit: Mapping[str, str], folder: Path = CGROUPS) -> int:
    """Bytes of memory that a service needs; 0 when it does not run.

    That is the memory of its control group without file pages that the kernel drops when it needs the memory. On a host
    without a controller for memory, the sum for its processes, where shared pages count once.
    """
    group = folder / unit.get("ControlGroup", "").strip("/")
    with contextlib.suppress(OSError, ValueError, KeyError):
        if group != folder:
            shown = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            return max(0, int((group / "memory.current").read_text()) - int(shown["inactive_file"]))
    main, total = unit.get("MainPID", "0"), 0
    for pid in (main, *children_of(main)) if main != "0" else ():
        with contextlib.suppress(OSError):  # it may end in the meantime, or belong to another user
            sizes = re.search(r"^Pss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
            total += int(sizes[1]) * 1024 if sizes else 0
    return total


def peak_of(unit: Mapping[str, str], folder: Path = CGROUPS) -> int | None:
    """The most bytes of memory that a service has taken since its start, with file pages; None if that is unknown."""
    with contextlib.suppress(OSError, ValueError):
        return int((folder / unit.get("ControlGroup", "").strip("/") / "memory.peak").read_text())
    return None


def certificate_of(name: str, sites: Path = Path("/etc/nginx/sites")) -> dict[str, Any] | None:
    """The certificate of an app's site; None without TLS, or if it can't be read."""
    try:
        if f"{CERTIFICATES / name}/" not in (sites / f"{name}.conf").read_text():
            return None
    except OSError:
        return None
    return stored_certificate(name)


def stored_certificate(name: str) -> dict[str, Any] | None:
    """The state of the certificate of an app; None if it can't be read."""
    folder = CERTIFICATES / name
    try:
        state = json.loads((folder / "state.json").read_text())
        real = (folder / "current/real").exists()
    except FileNotFoundError:
        state, real = {}, False
    except (OSError, ValueError):
        return None
    return {
        "method": state.get("wanted", {}).get("method", ""),
        "days_left": int((state.get("not_after", 0) - time.time()) // 86400) if real else 0,
        "is_there": real,
        "problem": state.get("error", ""),
    }


def certificates_of_balancer(folder: Path = BALANCED) -> dict[str, dict[str, Any] | None]:
    """The certificates that a balancer has requested, by the names of the apps; none on another host."""
    names = [path.stem for path in sorted(folder.glob("*.json"))] if HAPROXY.exists() else []
    return {name: stored_certificate(name) for name in names}


def died_recently(unit: Mapping[str, str]) -> bool:
    """Whether a service, or a worker of it, has died in the last quarter of an hour."""
    if int(unit.get("NRestarts") or 0) and seconds_up(unit) < RECENT:
        return True
    log = journal(f"_SYSTEMD_UNIT={unit['Id']}", f"--since=-{RECENT}", "--lines=300", "--reverse")
    return bool(DEATH.search(log))


def seconds_up(unit: Mapping[str, str]) -> float:
    """Seconds since a service has become active; 0 when it never has."""
    since = int(unit.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
    return time.monotonic() - since if since else 0.0


def state_of(unit: Mapping[str, str]) -> str:
    """The state of a service in one word."""
    is_waiting = unit.get("SubState", "").startswith("auto-restart")
    return "restarting" if is_waiting else unit.get("ActiveState", "absent")


def describe_service(name: str) -> dict[str, Any]:
    """The live release of an app and its processes. Needs no root, except for the cause in the app's log."""
    store = Releases(name, APPS / name)
    live = store.live
    units = show_units(services_of(name, live)) if live else []
    web, *processes = units or [{}]
    dead = [death for unit in units if (death := death_of(unit))]
    recent = [unit["Id"] for unit in units if death_of(unit) and died_recently(unit)]
    log = journal(f"_SYSTEMD_UNIT={web['Id']}", "--since=-10min", "--lines=200") if dead else ""
    cause = find_cause(mask(log, secret_values(store.path(live)))) if dead else ""
    limit, up = web.get("MemoryMax", ""), seconds_up(web)
    peak = peak_of(web) if web else None
    return {
        "name": name,
        "live": live,
        "state": state_of(web),
        "restarts": int(web.get("NRestarts") or 0),
        "workers": len(children_of(web["MainPID"])) if web.get("MainPID", "0") != "0" else 0,
        "processes": {unit["Id"].partition("@")[0].removeprefix(f"{name}."): state_of(unit) for unit in processes},
        "died": dead,
        "died_recently": recent,
        "cause": cause,
        "memory_mib": memory_of(web) >> 20,
        "memory_peak_mib": None if peak is None else peak >> 20,
        "memory_limit_mib": int(limit) >> 20 if limit.isdigit() and int(limit) < 1 << 60 else None,
        "up_seconds": int(up),
        "certificate": certificate_of(name),
        "in_maintenance": (store.root / "maintenance").exists(),
    }


def describe_releases(name: str, live: str) -> dict[str, Any]:
    """The releases of an app and its history, which only root can read."""
    store, lock = Releases(name, APPS / name), Lock(name)
    history = store.history()
    deployed = next((e["time"] for e in reversed(history) if e["result"] == "ok" and e["release"] == live), "")
    return {
        "commit": str(store.about(live).get("commit", "")) if live else "",
        "deployed": deployed,
        "last": next((event for event in reversed(history) if event["result"] != "begun"), None),
        "kept": store.good(),
        "rolled_back": store.rolled_back,
        "stopped": store.stopped,
        "unfinished": bool(live) and live != store.confirmed,
        "locked_by": None if lock.is_stale else lock.owner,
        "failed_end": lock.failure,
        "history": history,
    }


def parse_time(text: str) -> float | None:
    """A time in ISO 8601, as the history and the backups write it, in seconds since 1970; None if it is none."""
    with contextlib.suppress(ValueError, TypeError):
        return float(calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")))
    return None


def read_events(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The last deploys and rollbacks of each app: its name, and an event of its history."""
    with contextlib.suppress(OSError):
        for line in path.read_text(errors="replace").splitlines():
            app, _, event = line.partition(" ")
            with contextlib.suppress(ValueError, KeyError, TypeError):
                found = json.loads(event)
                if found["result"] != "begun" and parse_time(found["time"]) is not None:
                    yield app, found
