"""What a host knows of its backups, in /var/lib/backup/status.json, and what is wrong with it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

STATUS = Path("/var/lib/backup/status.json")
SETTINGS = Path("/etc/backup/settings.json")
PROGRAM = "/usr/local/sbin/backup"
NOT_INSTALLED = (
    "This host makes no backups. Nothing was changed.\nSet backup_targets in the inventory, and run playbooks/site.yml."
)


def read_json(path: Path) -> dict[str, Any]:
    """A file of JSON; empty when it is missing or incomplete."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def read_status(path: Path = STATUS) -> dict[str, Any]:
    """The results of backups, checks and drills."""
    return {"backups": {}, "targets": {}, "drills": {}} | read_json(path)


def size(number: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def age(since: float, now: float) -> str:
    """The time since a moment, for people."""
    hours = (now - since) / 3600
    return (
        f"{hours * 60:.0f} min ago" if hours < 1 else f"{hours:.0f} h ago" if hours < 48 else f"{hours / 24:.0f} d ago"
    )


def first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""


def find_problems(
    app: str, settings: dict[str, Any], status: dict[str, Any], since: float, now: float
) -> Iterator[str]:
    """What is wrong with the backups of an app.

    Args:
        app: name of the app.
        settings: the host's settings of backups.
        status: the results.
        since: when the settings were written; before that, nothing could have been done.
        now: the time.
    """
    limits = settings["max_age"]
    if app not in [one["name"] for one in settings["apps"]]:
        yield "is not backed up yet: run playbooks/site.yml"
        return
    for target in (one["name"] for one in settings["targets"]):
        entry = status["backups"].get(app, {}).get(target, {})
        if entry.get("error"):
            yield f"the last backup to {target} failed: {first_line(entry['error'])}"
        elif now - entry.get("time", since) > limits["backup"] * 3600:
            yield f"has no backup on {target} since {limits['backup']} hours"
        known = status["targets"].get(target, {})
        if known.get("error"):
            yield f"the check of {target} failed: {first_line(known['error'])}"
        elif now - known.get("checked", since) > limits["check"] * 3600:
            yield f"{target} was not checked for {limits['check']} hours"
    drill = status["drills"].get(app, {})
    if drill.get("error"):
        yield f"the last drill failed: {first_line(drill['error'])}"
    elif now - drill.get("time", since) > limits["drill"] * 3600:
        yield f"no backup was restored for a check for {limits['drill']} hours"


def describe(app: str, settings: dict[str, Any], status: dict[str, Any], now: float) -> Iterator[str]:
    """The last backups, checks and the last drill of an app, one line each."""
    for target in (one["name"] for one in settings["targets"]):
        entry, known = status["backups"].get(app, {}).get(target, {}), status["targets"].get(target, {})
        made = f"{age(entry['time'], now)}, {size(entry['size'])}" if "time" in entry else "never"
        checked = age(known["checked"], now) if "checked" in known else "never"
        yield f"{target}: {made}; checked: {checked}"
    drill = status["drills"].get(app, {})
    yield f"drill: {age(drill['time'], now)}, {drill.get('seconds', 0)} s" if drill else "drill: never"


def backup_state(apps: Iterable[str], settings_file: Path = SETTINGS, status_file: Path = STATUS) -> dict[str, Any]:
    """The backups of some apps, by name: `lines` and `problems`; empty on a host without backups."""
    settings, status, now = read_json(settings_file), read_status(status_file), time.time()
    if not settings:
        return {}
    since = settings_file.stat().st_mtime
    return {
        app: {
            "lines": list(describe(app, settings, status, now)),
            "problems": list(find_problems(app, settings, status, since, now)),
        }
        for app in apps
    }
