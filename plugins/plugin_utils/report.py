"""The status of all hosts as a page that needs no other file and no script: plots, history, problems."""

from __future__ import annotations

import base64
import hashlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from ansible_collections.blueoctopus.site.plugins.module_utils.app_status import parse_time
from ansible_collections.blueoctopus.site.plugins.module_utils.checks import CERTIFICATE_DAYS, DISK_PERCENT
from ansible_collections.blueoctopus.site.plugins.plugin_utils.status_table import (
    duration,
    long_age,
    notes,
    number,
    short_age,
    short_commit,
)
from markupsafe import Markup

TEMPLATES = Path(__file__).resolve().parents[2] / "playbooks/templates"
WIDTH, HEIGHT = 288, 48  # of a plot; its page scales it
DAY = 86400
EVENTS = 30  # of each app, the newest ones
SAME_EVENT = 900  # seconds in which the hosts of a deploy record it


# --- plots ----------------------------------------------------------------------------------------------------------


def ceiling(values: Iterable[float]) -> float:
    """The next number of 1, 2 or 5 times a power of ten, so that the top of a plot is a number that is easy to read."""
    most = max(values, default=0)
    if most <= 0:
        return 1
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (1, 2, 5, 10) if most <= step * power * 1.0001)


def line(points: Sequence[tuple[float, float | None]], top: float, start: float, length: float = DAY) -> str:
    """The path of a line through points of time and value, with gaps where there is no value."""
    parts: list[str] = []
    pen_is_down = False
    for moment, value in points:
        if value is None:
            pen_is_down = False
            continue
        x = min(max((moment - start) / length, 0), 1) * WIDTH
        y = HEIGHT - min(value / top, 1) * (HEIGHT - 2) - 1
        parts.append(f"{'L' if pen_is_down else 'M'}{x:.1f} {y:.1f}")
        if not pen_is_down:
            parts.append("h0.5")
        pen_is_down = True
    return "".join(parts)


def area(points: Sequence[tuple[float, float | None]], top: float, start: float) -> str:
    """The path of the area below values; nothing counts as zero."""
    filled = [(moment, value or 0.0) for moment, value in points]
    if not filled:
        return ""
    outline = line(filled, top, start).replace("M", "L", 1).replace("h0.5", "", 1)
    first, last = (min(max((filled[n][0] - start) / DAY, 0), 1) * WIDTH for n in (0, -1))
    return f"M{first:.1f} {HEIGHT}{outline}L{last:.1f} {HEIGHT}Z"


def plot(
    title: str, lines: Mapping[str, Sequence[tuple[float, float | None]]], top: float, **more: Any
) -> dict[str, Any]:
    """A plot for the template.

    Args:
        title: what it shows.
        lines: the points of each line, by its class in the style sheet.
        top: the value at the top.
        more: `start` of the day, `text` that says the values, `marks` at certain times, the class of the `filled` line.
    """
    start, filled = more["start"], more.get("filled", "")
    return {
        "title": title,
        "text": more["text"],
        "top": more["top_text"],
        "paths": [(name, line(points, top, start)) for name, points in lines.items()],
        "areas": [(name, area(points, top, start)) for name, points in lines.items() if name == filled],
        "marks": [round((moment - start) / DAY * WIDTH, 1) for moment in more.get("marks", []) if moment >= start],
    }


def plots_of(app: Mapping[str, Any], host: Mapping[str, Any], now: float) -> list[dict[str, Any]]:
    """The plots of an app on a host: requests and errors, latency, and memory if alerts have recorded it."""
    day, start, step = app["day"], now - DAY, DAY / 96 / 60
    marks = [
        moment
        for event in app["history"]
        if event["result"] == "ok" and (moment := parse_time(event["time"])) is not None
    ]
    if not day:
        return []
    series = day["series"]
    requests = [(row["time"], row["requests"] / step) for row in series]
    errors = [(row["time"], row["errors"] / step or None) for row in series]
    slow = [(row["time"], row["p95"]) for row in series]
    usual = [(row["time"], row["p50"]) for row in series]
    most = ceiling(value for _, value in requests)
    worst = ceiling(value for _, value in errors if value)
    longest = ceiling(value for _, value in slow if value)
    common = {"start": start, "marks": marks}
    found = [
        plot("Requests a minute", {"requests": requests}, most, filled="requests", top_text=f"{most:g}",
             text=f"{day['requests']} in a day", **common),
        plot("Errors a minute", {"errors": errors}, worst, filled="errors", top_text=f"{worst:g}",
             text=f"{day['errors']} in a day", **common),
        plot("Latency", {"slow": slow, "usual": usual}, longest, top_text=duration(longest),
             text=f"p95 {duration(day['p95_seconds'])}, p50 {duration(day['p50_seconds'])}", **common),
    ]  # fmt: skip
    samples = (host.get("alerts") or {}).get("samples") or []
    memory = [(s["time"], s["memory"][app["name"]] / (1 << 20)) for s in samples if app["name"] in s.get("memory", {})]
    if memory:
        top = ceiling(value for _, value in memory)
        text = f"now {app['memory_mib']} MiB"
        found.append(plot("Memory", {"memory": memory}, top, top_text=f"{top:.0f} MiB", text=text, **common))
    return found


# --- history --------------------------------------------------------------------------------------------------------


def timeline(hosts: Mapping[str, Mapping[str, Any]], app: str) -> list[dict[str, Any]]:
    """The deploys and rollbacks of an app, the newest first; identical events of several hosts are merged."""
    events: list[tuple[float, str, dict[str, Any]]] = []
    for name, host in hosts.items():
        for entry in host["apps"]:
            for event in entry["history"] if entry["name"] == app else ():
                moment = parse_time(event["time"])
                if event["result"] != "begun" and moment is not None:
                    events.append((moment, name, event))
    found: list[dict[str, Any]] = []
    for moment, name, event in sorted(events, key=lambda entry: -entry[0]):
        key = tuple(event.get(part, "") for part in ("action", "result", "release"))
        same = (one for one in found if one["key"] == key and one["moment"] - moment < SAME_EVENT)
        known = next((one for one in same if name not in one["hosts"]), None)
        if known:
            known["hosts"].append(name)
        else:
            found.append({"key": key, "moment": moment, "hosts": [name], **event})
    return found[:EVENTS]


# --- the page -------------------------------------------------------------------------------------------------------


def view_of_app(name: str, status: Mapping[str, Any], now: float) -> dict[str, Any]:
    """An app for the template: its hosts with values and plots, and its history."""
    rows = []
    for host_name, host in status["hosts"].items():
        for app in host["apps"]:
            if app["name"] != name:
                continue
            problems = [entry for entry in host["problems"] if entry["app"] == name]
            kinds, deployed = {entry["kind"] for entry in problems}, parse_time(app["deployed"])
            rows.append(
                {
                    "host": host_name,
                    "app": app,
                    "problems": problems,
                    "kinds": kinds,
                    "runs": app["state"] == "active" and not kinds & {"down", "dying"},
                    "commit": short_commit(app["commit"]),
                    "age": short_age(None if deployed is None else max(0, now - deployed)),
                    "up": long_age(app["up_seconds"]),
                    "plots": plots_of(app, host, now),
                }
            )
    return {"name": name, "rows": rows, "events": timeline(status["hosts"], name)}


def view_of_host(name: str, host: Mapping[str, Any], now: float) -> dict[str, Any]:
    """A host for the template."""
    backup = host.get("backup")
    last = parse_time((backup or {}).get("last_backup") or "")
    since = (backup or {}).get("restorable_since")
    seconds = f", databases of any second since {since}" if since else ""
    names = {app["name"] for app in host["apps"]}
    # Backups of all apps are a value of the host; an app without a row has no other place.
    own = [entry for entry in host["problems"] if entry["kind"] == "backup" or entry["app"] not in names]
    return {
        "name": name,
        "host": host,
        "kinds": {entry["kind"] for entry in own},
        "backup": "" if backup is None else "none" if last is None else f"{short_age(max(0, now - last))} ago{seconds}",
    }


def page(status: Mapping[str, Any], templates: Path = TEMPLATES) -> str:
    """The report.

    Args:
        status: the status, as docs/status.schema.json describes it.
        templates: the folder of the template and its style sheet.
    """
    now = parse_time(status["time"]) or time.time()
    style = (templates / "report.css").read_text()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    names = dict.fromkeys(app["name"] for host in status["hosts"].values() for app in host["apps"])
    # Every value is escaped: clients and apps choose what logs contain.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "number": number}
    return environment.get_template("report.html.j2").render(
        status=status,
        style=Markup(style),  # noqa: S704
        policy=f"default-src 'none'; style-src 'sha256-{digest}'",
        apps=[view_of_app(name, status, now) for name in names],
        hosts=[view_of_host(name, host, now) for name, host in status["hosts"].items()],
        notes=notes(status),
        size=(WIDTH, HEIGHT),
        limits={"certificate": CERTIFICATE_DAYS, "disk": DISK_PERCENT},
    )
