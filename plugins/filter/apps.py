"""Convert entries of `apps` for the roles."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.blueoctopus.site.plugins.module_utils.hints import hint
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import keys_with, with_defaults


def with_source_path(app: Mapping[str, Any], project: str) -> dict[str, Any]:
    """An entry of `apps` with the absolute path of a source folder that is relative to the project's root."""
    source = app["source"]
    is_url = re.match(r"\w+://|[\w.-]+@[\w.-]+:", source)
    return {**app, "source": source if is_url else str((Path(project) / source).resolve())}


def hosts_with_app(hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], app: str) -> list[str]:
    """The hosts whose inventory has an app."""
    return [host for host in hosts if any(entry["name"] == app for entry in hostvars[host]["apps"])]


def log_days(apps: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The days for which nginx's log has the requests of each app, by its name."""
    return {app["name"]: int(app["log_days"]) for app in map(with_defaults, apps)}


def log_lines(logs: Mapping[str, Mapping[str, Any]], app: str) -> list[str]:
    """The lines of a log, in order of time over all hosts, and the solution of each known error in it.

    Args:
        logs: the result of the module app_logs for each host, by its name.
        app: name of the app.
    """
    sources = [found["source"] for log in logs.values() for found in log["entries"]]
    host_width = max(map(len, logs), default=0) if len(logs) > 1 else 0
    source_width = max(map(len, sources), default=0)
    rows = sorted(
        ((found["time"], host, found) for host, log in logs.items() for found in log["entries"]),
        key=lambda row: row[:2],
    )
    lines = []
    for time, host, found in rows:
        stamp = datetime.datetime.fromtimestamp(time, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        prefix = f"{stamp}  {host:{host_width}}  " if host_width else f"{stamp}  "
        first, *others = found["text"].splitlines() or [""]
        lines.append(f"{prefix}{found['source']:{source_width}}  {first}")
        lines += [f"{' ' * len(prefix)}{'':{source_width}}  {line}" for line in others]
    if not all(log["complete"] for log in logs.values()):
        lines.insert(0, "Older entries are omitted. To show more: -e lines=NUMBER")
    # Clients write part of nginx's entries.
    hints = dict.fromkeys(hint(found["text"], app) for _, _, found in rows if found["source"] != "nginx")
    lines += [f"solution: {solution}" for solution in hints if solution]
    return lines or ["Nothing was logged. To show earlier entries: -e since='1 day ago'"]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {
            "hosts_with_app": hosts_with_app,
            "keys_with": keys_with,
            "log_days": log_days,
            "log_lines": log_lines,
            "with_defaults": with_defaults,
            "with_source_path": with_source_path,
        }
