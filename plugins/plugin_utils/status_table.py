"""The status of all hosts as a table for the terminal, and the problems as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.blueoctopus.site.plugins.module_utils.app_log import log_command
from ansible_collections.blueoctopus.site.plugins.module_utils.app_status import parse_time
from ansible_collections.blueoctopus.site.plugins.module_utils.backup_status import size as size_text
from ansible_collections.blueoctopus.site.plugins.module_utils.checks import CERTIFICATE_DAYS, DISK_PERCENT
from ansible_collections.blueoctopus.site.plugins.module_utils.hints import hint

BAD, NOTABLE, FAINT = "bad", "notable", "faint"
Paint = Callable[[str, str], str]
# The heading of each column, short enough for 120 characters; numbers are aligned to the right.
COLUMNS = {
    "": "<",
    "HOST": "<",
    "APP": "<",
    "STATE": "<",
    "RELEASE": "<",
    "COMMIT": "<",
    "AGE": ">",
    "WRK": ">",
    "MEM": ">",
    "REQ/M": ">",
    "ERR/M": ">",
    "P95": ">",
    "CERT": ">",
    "BACKUP": ">",
    "WAL": ">",
    "UPD": ">",
    "REBOOT": "<",
    "DISK": ">",
}
# Columns that are left out where no row has a value.
OPTIONAL = {"COMMIT", "CERT", "BACKUP", "WAL", "REBOOT"}
NOTHING = "-"
# What to do about a problem of the replication, by its subject; others are standbys.
CONNECT = "playbooks/site.yml connects the standby again, or clones it: docs/databases.md#a-standby"
REPLICATION = {
    "fenced": "if it is to be a standby, set postgresql_standby_of for it and run playbooks/site.yml: "
    "docs/databases.md#a-standby",
    "lag": "look for load, a slow disk and a slow network on both hosts: docs/databases.md#a-standby",
    "server": "systemctl status 'postgresql@*', and /var/log/postgresql: docs/databases.md#a-standby",
}


@dataclass
class Cell:
    """A cell of the table, and how it is marked."""

    text: str
    mark: str = ""


def plain(text: str, mark: str) -> str:
    """A text without colour."""
    return text if mark is not None else ""


def short_age(seconds: float | None) -> str:
    """A duration in its largest unit."""
    if seconds is None or seconds < 0:
        return NOTHING
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def long_age(seconds: float) -> str:
    """A duration in its two largest units."""
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(int(seconds), size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def short_release(release: str) -> str:
    """The first digits of the digest in the ID of a release."""
    return release.rpartition("-")[2][:6] or NOTHING


def short_commit(commit: str) -> str:
    """The first digits of a commit, with the mark of uncommitted changes."""
    name, plus, _ = commit.partition("+")
    return f"{name[:7]}{plus}"


def duration(seconds: float | None) -> str:
    """The latency of a request."""
    if seconds is None:
        return NOTHING
    return f"{seconds * 1000:.0f}ms" if seconds < 1 else f"{seconds:.1f}s"


def number(value: float) -> str:
    """A rate: small ones with a decimal."""
    return f"{value:.1f}" if 0 < value < 10 else f"{value:.0f}"


# --- rows -----------------------------------------------------------------------------------------------------------


def host_cells(host: Mapping[str, Any], now: float) -> dict[str, Cell]:
    """The cells that all apps of a host share."""
    disk = max(host["disks"], key=lambda d: max(d["percent"], d["inodes_percent"]), default=None)
    kinds = {problem["kind"] for problem in host["problems"]}
    cells = {}
    if disk:
        percent = max(disk["percent"], disk["inodes_percent"])
        is_bad = percent >= DISK_PERCENT or "disk" in kinds
        cells["DISK"] = Cell(f"{percent}%", BAD if is_bad else "")
    if host["backup"] is not None:
        last = parse_time(host["backup"].get("last_backup") or "")
        cells["BACKUP"] = Cell("none" if last is None else short_age(max(0, now - last)), BAD * ("backup" in kinds))
        archived = parse_time(host["backup"].get("last_wal") or "")
        if archived is not None:
            cells["WAL"] = Cell(short_age(max(0, now - archived)))
    updates = host["updates"]
    if updates is not None:
        cells["UPD"] = Cell(str(updates["pending"]), NOTABLE if updates["security"] else "")
    if host["reboot_needed"]:
        cells["REBOOT"] = Cell("yes", NOTABLE)
    return cells


def app_cells(app: Mapping[str, Any], problems: Iterable[Mapping[str, str]], now: float) -> dict[str, Cell]:
    """The cells of an app."""
    kinds = {problem["kind"] for problem in problems}
    seen, certificate = app["requests"], app["certificate"]
    deployed = parse_time(app["deployed"])
    differs = NOTABLE if app["differs"] else ""
    star = "*" if app["differs"] else ""
    state = "maintenance" if app["in_maintenance"] and app["state"] == "active" else app["state"]
    if not app["live"]:
        state = "stopped" if app["stopped"] else "absent"
    cells = {
        "APP": Cell(app["name"]),
        "STATE": Cell(state, BAD if kinds & {"down", "absent", "dying", "process"} else NOTABLE * (state != "active")),
        "RELEASE": Cell(short_release(app["live"]) + star, differs),
        "AGE": Cell(short_age(None if deployed is None else max(0, now - deployed))),
        "WRK": Cell(str(app["workers"]), BAD * ("dying" in kinds)),
        "MEM": Cell(f"{app['memory_mib']}M"),
        "REQ/M": Cell(number(seen["per_minute"])),
        "ERR/M": Cell(number(seen["errors_per_minute"]), BAD if "errors" in kinds else ""),
        "P95": Cell(duration(seen["p95_seconds"])),
    }
    if app["commit"]:
        cells["COMMIT"] = Cell(short_commit(app["commit"]), differs)
    if certificate:
        is_bad = not certificate["is_there"] or certificate["days_left"] < CERTIFICATE_DAYS
        days = f"{certificate['days_left']}d" if certificate["is_there"] else "none"
        cells["CERT"] = Cell(days, BAD if is_bad else "")
    return cells


def rows_of(status: Mapping[str, Any]) -> list[dict[str, Cell]]:
    """A row for each host and app: those with problems first, otherwise in the order of the inventory."""
    now = parse_time(status["time"]) or 0.0
    rows: list[tuple[bool, dict[str, Cell]]] = []
    for name, host in status["hosts"].items():
        if host["error"]:
            state = "no data" if host["reachable"] else "unreachable"
            rows.append((True, {"HOST": Cell(name, BAD), "STATE": Cell(state, BAD)}))
            continue
        shared = host_cells(host, now)
        names = {app["name"] for app in host["apps"]}
        of_host = any(problem["app"] not in names for problem in host["problems"])
        if not host["apps"]:
            rows.append((of_host, {"HOST": Cell(name, BAD * of_host), **shared}))
        for app in host["apps"]:
            own = [problem for problem in host["problems"] if problem["app"] == app["name"]]
            bad = bool(own) or of_host
            cells = {"HOST": Cell(name, BAD * of_host), **app_cells(app, own, now), **shared}
            cells["APP"].mark = BAD * bool(own)
            rows.append((bad, cells))
    return [{"": Cell("!" if bad else "", BAD), **cells} for bad, cells in sorted(rows, key=lambda row: not row[0])]


def table(status: Mapping[str, Any], paint: Paint = plain) -> list[str]:
    """The lines of the table."""
    rows = rows_of(status)
    shown = {name: side for name, side in COLUMNS.items() if name not in OPTIONAL or any(name in row for row in rows)}
    if not any(row[""].text for row in rows):
        del shown[""]
    missing = Cell(NOTHING, FAINT)
    widths = (
        {name: max(len(name), *(len(row.get(name, missing).text) for row in rows)) for name in shown} if rows else {}
    )
    lines = ["  ".join(f"{name:{side}{widths[name]}}" for name, side in shown.items()).rstrip()] if rows else []
    for row in rows:
        cells = []
        for name, side in shown.items():
            cell = row.get(name, missing)
            padding = " " * (widths[name] - len(cell.text))
            text = paint(cell.text, cell.mark)
            cells.append(padding + text if side == ">" else text + padding)
        lines.append("  ".join(cells).rstrip())
    return lines


# --- below the table ------------------------------------------------------------------------------------------------


def notes(status: Mapping[str, Any]) -> list[str]:
    """Notes below the table, which are no problems."""
    lines = []
    apps = [(name, app) for name, host in status["hosts"].items() for app in host["apps"]]
    if any(app["differs"] for _, app in apps):
        lines.append("* differs from the release on most hosts")
    for name, app in apps:
        where = f"{name} {app['name']}:"
        if not app["in_inventory"]:
            lines.append(f"{where} not in the inventory; to remove it: playbooks/remove.yml -e app={app['name']}")
        certificate = app["certificate"]
        if certificate and certificate["is_there"] and certificate["problem"]:
            lines.append(f"{where} the last renewal of the certificate failed: {certificate['problem']}")
        if app["locked_by"]:
            lines.append(f"{where} locked by a run of {app['locked_by'].get('by', '')}")
        if app["in_maintenance"]:
            lines.append(
                f"{where} in maintenance; to end it: playbooks/maintenance.yml -e app={app['name']} -e state=off"
            )
    for name, host in status["hosts"].items():
        if host.get("replication"):
            lines.append(f"{name}: {replication_note(host['replication'])}")
        delivery = (host.get("alerts") or {}).get("delivery") or {}
        if delivery.get("failing_since"):
            lines.append(
                f"{name}: alerts could not be sent since {delivery['failing_since']}: {delivery.get('error', '')}"
            )
    return lines


def replication_note(found: Mapping[str, Any]) -> str:
    """The replication of PostgreSQL on a host, in one line."""
    parts = []
    for standby in found["standbys"]:
        lag = "" if standby["lag_bytes"] is None else f", {size_text(standby['lag_bytes'])} behind"
        parts.append(f"{standby['name']} {standby['state']}{lag}")
    if found["connected"] is not None:
        lag = "" if found["lag_seconds"] is None else f", {long_age(found['lag_seconds'])} behind"
        parts.append(f"{'connected' if found['connected'] else 'not connected'}{lag}")
    return f"PostgreSQL: {': '.join([found['role'], *filter(None, [', '.join(parts)])])}"


def solution_of(entry: Mapping[str, str]) -> str:
    """What to do about a problem; empty if that is not known."""
    if entry["kind"] == "replication":
        return REPLICATION.get(entry["subject"], CONNECT)
    return hint(entry["log"], entry["app"])


def problem_lines(status: Mapping[str, Any]) -> list[str]:
    """The problems, each with the last error in the app's log, its solution and the command for the full log."""
    problems = status["problems"]
    if not problems:
        return ["No problem."]
    width = max(len(entry["host"]) for entry in problems)
    names = max(len(entry["app"]) for entry in problems)
    lines = [f"{len(problems)} problem{'s' * (len(problems) > 1)}"]
    shown: set[tuple[str, str]] = set()
    for entry in problems:
        margin = f"  {entry['host']:<{width}}  {entry['app']:<{names}}  " if names else f"  {entry['host']:<{width}}  "
        lines.append(f"{margin}{entry['text']}")
        if entry["log"]:
            lines.append(f"{' ' * len(margin)}last error: {entry['log']}")
        if solution := solution_of(entry):
            lines.append(f"{' ' * len(margin)}solution: {solution}")
        if entry["kind"] in ("down", "dying", "process", "errors") and (entry["host"], entry["app"]) not in shown:
            shown.add((entry["host"], entry["app"]))
            lines.append(f"{' ' * len(margin)}log: {log_command(entry['app'])}")
    return lines


def details(host: str, app: Mapping[str, Any]) -> list[str]:
    """Everything about an app on a host: releases and history."""
    rows: list[tuple[str, str]] = [("live", app["live"] or "none")]
    if app["commit"]:
        rows.append(("commit", app["commit"]))
    limit = f" of {app['memory_limit_mib']}" if app["memory_limit_mib"] else ""
    peak = f", at most {app['memory_peak_mib']} MiB with its file pages" if app["memory_peak_mib"] else ""
    rows.append(("state", f"{app['state']}, {app['workers']} workers, up {long_age(app['up_seconds'])}"))
    rows.append(("memory", f"{app['memory_mib']}{limit} MiB{peak}"))
    rows += [("process", f"{name}  {state}") for name, state in app["processes"].items()]
    if app["died"]:
        rows.append(("died", f"{', '.join(app['died'])}, since the start"))
    certificate = app["certificate"]
    if certificate:
        left = f"{certificate['days_left']} days left" if certificate["is_there"] else "no certificate yet"
        rows.append(("tls", f"{certificate['method']}, {left}"))
        rows += [("tls", certificate["problem"])] if certificate["problem"] else []
    rows += [("kept", release) for release in app["kept"] if release not in app["rolled_back"]]
    rows += [("kept", f"{release}  (rolled back from)") for release in app["rolled_back"]]
    ended = [event for event in app["history"] if event["result"] != "begun"]
    for event in reversed(ended[-5:]):
        who = f"{short_commit(event.get('commit', '')):<8}  {event.get('by', '')}"
        rows.append(
            (
                "history",
                f"{event['time']}  {event['action']:<8}  {event['result']:<6}  {event['release'] or 'none'}  {who}",
            )
        )
        rows += [("history", f"  {event['reason']}")] if event.get("reason") else []
    lines = [f"{host} / {app['name']}"]
    for position, (name, value) in enumerate(rows):
        shown = "" if position and rows[position - 1][0] == name else name
        lines.append(f"  {shown:<8} {value}".rstrip())
    return lines
