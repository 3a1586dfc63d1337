"""Convert entries of `apps` for the roles."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import with_defaults


def with_source_path(app: Mapping[str, Any], project: str) -> dict[str, Any]:
    """An entry of `apps` with the absolute path of a source folder that is relative to the project's root."""
    source = app["source"]
    is_url = re.match(r"\w+://|[\w.-]+@[\w.-]+:", source)
    return {**app, "source": source if is_url else str((Path(project) / source).resolve())}


def hosts_with_app(hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], app: str) -> list[str]:
    """The hosts whose inventory has an app."""
    return [host for host in hosts if any(entry["name"] == app for entry in hostvars[host]["apps"])]


def log_lines(logs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The lines of a log, in order of time over all hosts.

    Args:
        logs: the result of the module app_logs for each host, by its name.
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
        lines.insert(0, "Older entries are left out. To see more of them: -e lines=NUMBER")
    return lines or ["Nothing was logged. To look further back: -e since='1 day ago'"]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {
            "hosts_with_app": hosts_with_app,
            "log_lines": log_lines,
            "with_defaults": with_defaults,
            "with_source_path": with_source_path,
        }
