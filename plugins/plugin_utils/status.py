"""The status of all hosts as one document, from the results of the module host_status."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.blueoctopus.site.plugins.module_utils.app_log import clean
from ansible_collections.blueoctopus.site.plugins.module_utils.checks import problem

VERSION = 1
CLOCK_OFFSET = 60.0  # seconds


def cleaned(value: Any) -> Any:
    """A value without characters that a terminal would execute: an app can choose what it logs."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {str(key): cleaned(inner) for key, inner in value.items()}
    return [cleaned(inner) for inner in value] if isinstance(value, list | tuple) else value


def describe_host(result: Mapping[str, Any], app: str, now: float) -> dict[str, Any]:
    """The state of one host, only with one app if that is given."""
    if not isinstance(result.get("host"), Mapping):
        is_lost = bool(result.get("unreachable"))
        kind, words = ("unreachable", "can't be reached") if is_lost else ("unknown", "can't be measured")
        lines = [line.strip() for line in clean(str(result.get("msg", ""))).splitlines() if line.strip()]
        error = (lines or ["no reason was given"])[0].removeprefix("Task failed: ")
        return {"reachable": not is_lost, "error": error, "apps": [], "problems": [problem(kind, f"{words}: {error}")]}
    host: dict[str, Any] = cleaned(result["host"])
    # A right clock is between the two; how long other hosts took to answer does not count.
    asked, answered = result.get("asked", now), result.get("answered", now)
    offset = round(host["time"] - min(max(host["time"], asked), answered))
    if abs(offset) > CLOCK_OFFSET:
        way = "ahead of" if offset > 0 else "behind"
        host["problems"].append(problem("clock", f"the clock is {abs(offset)} s {way} that of the control node"))
    if app:
        host["apps"] = [entry for entry in host["apps"] if entry["name"] == app]
        host["problems"] = [entry for entry in host["problems"] if entry["app"] in ("", app)]
    return {"reachable": True, "error": "", "clock_offset_seconds": offset, **host}


def document(
    results: Mapping[str, Mapping[str, Any]],
    logins: Mapping[str, Mapping[str, Any]] | None = None,
    app: str = "",
    now: float | None = None,
) -> dict[str, Any]:
    """The status of all hosts, as docs/status.schema.json describes it.

    Args:
        results: the result of the module host_status on each host.
        logins: the result of the module reach_host on each host, which has the reason when there is no other result.
        app: the only app to report.
        now: seconds since 1970.
    """
    now = time.time() if now is None else now
    hosts = {}
    for name, result in results.items():
        login = (logins or {}).get(name) or {}
        is_lost = "host" not in result and (login.get("unreachable") or login.get("failed"))
        hosts[name] = describe_host(login if is_lost else result, app, now)
    mark_differences(hosts)
    return {
        "version": VERSION,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
        "problems": [{"host": name, **entry} for name, host in hosts.items() for entry in host["problems"]],
        "hosts": hosts,
    }


def mark_differences(hosts: Mapping[str, Mapping[str, Any]]) -> None:
    """Mark each app whose live release is not the one that most hosts have; of as many, the newest."""
    lives: dict[str, Counter[str]] = {}
    for _, app in apps_of(hosts):
        lives.setdefault(app["name"], Counter())[app["live"]] += 1
    for _, app in apps_of(hosts):
        counts = lives[app["name"]]
        app["differs"] = app["live"] != max(counts, key=lambda live: (counts[live], live))


def apps_of(hosts: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each app of each host."""
    for name, host in hosts.items():
        for app in host["apps"]:
            yield name, app
