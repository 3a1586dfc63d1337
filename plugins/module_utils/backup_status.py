"""The results of a host's backups, in /var/lib/backup/shared/status.json, and their problems."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.blueoctopus.site.plugins.module_utils.files import read_untrusted

STATUS = Path("/var/lib/backup/shared/status.json")
SETTINGS = Path("/etc/backup/settings.json")
PROGRAM = "/usr/local/sbin/backup"
ARCHIVE = "postgresql.cluster"  # the archive of PostgreSQL among the backups
SENT_LATE = 600.0  # seconds without contact to a target, after which its WAL is a problem
NOT_INSTALLED = (
    "This host makes no backups. Nothing was changed.\nSet backup_targets in the inventory, and run playbooks/site.yml."
)


def read_json(path: Path) -> dict[str, Any]:
    """A file of JSON; empty when it is missing or incomplete."""
    try:
        return dict(json.loads(read_untrusted(path)))
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


def first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""


def find_problems(
    app: str, settings: dict[str, Any], status: dict[str, Any], since: float, now: float
) -> Iterator[tuple[str, str]]:
    """The problems of the backups of an app: what each is about, which stays the same while it lasts, and a text.

    Args:
        app: name of the app.
        settings: the host's settings of backups.
        status: the results.
        since: when the host began to make backups; before that, nothing could have been done.
        now: the time.
    """
    limits = settings["max_age"]
    if app not in [one["name"] for one in settings["apps"]]:
        yield "backup", "is not backed up yet: run playbooks/site.yml"
        return
    for target in (one["name"] for one in settings["targets"]):
        entry = status["backups"].get(app, {}).get(target, {})
        if entry.get("error"):
            yield f"backup to {target}", f"the last backup to {target} failed: {first_line(entry['error'])}"
        elif now - entry.get("time", since) > limits["backup"] * 3600:
            yield f"backup to {target}", f"no backup on {target} for {limits['backup']} hours"
    drill = status["drills"].get(app, {})
    if drill.get("error"):
        yield "drill", f"the last drill failed: {first_line(drill['error'])}"
    elif now - drill.get("time", since) > limits["drill"] * 3600:
        yield "drill", f"no drill has restored a backup for {limits['drill']} hours"


def target_problems(
    settings: dict[str, Any], status: dict[str, Any], since: float, now: float
) -> Iterator[tuple[str, str]]:
    """The problems of the checks of targets, as `find_problems` returns them."""
    limit = settings["max_age"]["check"]
    for target in (one["name"] for one in settings["targets"]):
        known = status["targets"].get(target, {})
        if known.get("error"):
            yield f"check of {target}", f"the check of {target} failed: {first_line(known['error'])}"
        elif now - known.get("checked", since) > limit * 3600:
            yield f"check of {target}", f"{target} was not checked for {limit} hours"


def archive_problems(
    settings: dict[str, Any], status: dict[str, Any], since: float, now: float
) -> Iterator[tuple[str, str]]:
    """The problems of the archive of PostgreSQL, if the host has one, as `find_problems` returns them."""
    if not settings.get("point_in_time"):
        return
    found = status.get("archive", {})
    if found.get("base_error"):
        yield "base backup", f"the last base backup of PostgreSQL failed: {first_line(found['base_error'])}"
    elif now - found.get("base_time", since) > settings["max_age"]["backup"] * 3600:
        yield "base backup", f"PostgreSQL has no base backup since {settings['max_age']['backup']} hours"
    if found.get("waits"):
        yield "WAL", "PostgreSQL can't archive its WAL: see its log in /var/log/postgresql"
    if found.get("gap"):
        day = time.strftime("%Y-%m-%d %H:%M", time.gmtime(found["gap"]))
        yield (
            "missing WAL",
            f"WAL is missing in the archive after {day} UTC, as the disk was full or files were deleted",
        )
    for target in settings.get("logs", []):
        entry = found.get("targets", {}).get(target, {})
        late = now - entry.get("time", since) > SENT_LATE
        if late and entry.get("error"):
            yield f"WAL to {target}", f"WAL is not sent to {target}: {first_line(entry['error'])}"
        elif late:
            yield f"WAL to {target}", f"WAL is not sent to {target}: systemctl status backup-archive@{target}"
    for target in (one["name"] for one in settings["targets"]):
        entry, subject = status["backups"].get(ARCHIVE, {}).get(target, {}), f"backup of the archive to {target}"
        if entry.get("error"):
            yield subject, f"the last backup of PostgreSQL's archive to {target} failed: {first_line(entry['error'])}"
        elif now - entry.get("time", since) > settings["max_age"]["backup"] * 3600:
            yield subject, f"PostgreSQL's archive has no backup on {target} since {settings['max_age']['backup']} hours"


def all_problems(settings: dict[str, Any], status: dict[str, Any], now: float) -> list[dict[str, str]]:
    """All problems of the backups of a host: the `app`, or nothing for the host, the `subject` and the `text`."""
    since = settings["since"]
    found = [
        (app, *entry)
        for app in (one["name"] for one in settings["apps"])
        for entry in find_problems(app, settings, status, since, now)
    ]
    if settings["apps"]:
        found += [("", *entry) for entry in target_problems(settings, status, since, now)]
    found += [("", *entry) for entry in archive_problems(settings, status, since, now)]
    return [{"app": app, "subject": subject, "text": text} for app, subject, text in found]


def summary(status: dict[str, Any], now: float) -> dict[str, Any] | None:
    """The backups of a host, for its status; None when it makes none.

    Args:
        status: the content of status.json.
        now: the time.

    Returns:
        `last_backup`, `last_check` and `last_drill` of the app or target that is worst off, in ISO 8601, or None; the
        `size_bytes` of the newest backups; what is wrong, in `problems`, and in one line in `problem`. With an archive
        of PostgreSQL, `last_wal`, when the newest WAL was archived, and `restorable_since`, the moment after which each
        moment can be restored.
    """
    settings = status.get("settings")
    if not settings:
        return None
    status = {"backups": {}, "targets": {}, "drills": {}} | status
    apps, targets = ([one["name"] for one in settings[key]] for key in ("apps", "targets"))
    newest: list[dict[str, Any]] = [
        max(status["backups"].get(app, {}).values(), key=lambda one: one.get("time", 0), default={}) for app in apps
    ]
    problems = all_problems(settings, status, now)
    archive = [status.get("archive", {})] if settings.get("point_in_time") else []
    return {
        "last_backup": oldest(newest, "time"),
        "last_check": oldest([status["targets"].get(target, {}) for target in targets], "checked"),
        "last_drill": oldest([status["drills"].get(app, {}) for app in apps], "time"),
        "last_wal": oldest(archive, "archived"),
        "restorable_since": oldest(archive, "since"),
        "size_bytes": sum(one.get("size", 0) for one in newest),
        "problems": problems,
        "problem": "; ".join(f"{one['app']}: {one['text']}" if one["app"] else one["text"] for one in problems),
    }


def oldest(entries: list[dict[str, Any]], key: str) -> str | None:
    """The oldest time of some entries, in ISO 8601; None if one has none."""
    if not entries or any(one.get(key) is None for one in entries):
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(min(one[key] for one in entries)))
