"""The definition of a problem, for the status, the report and the alerts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.blueoctopus.site.plugins.module_utils.app_status import parse_time
from ansible_collections.blueoctopus.site.plugins.module_utils.replication import NOT_CONNECTED

CERTIFICATE_DAYS = 10
DISK_PERCENT = 90
DAY = 86400  # seconds
ERRORS_SHARE = 0.05
ERRORS_LEAST = 5  # in the window: one failed request of two is no outage
CHECK_AGE = 600  # seconds between two checks of the alerts
DELIVERY_AGE = 300  # seconds in which alerts may be sent again
TREND_LEAST = 3 * 3600  # seconds of samples that a trend needs
QUEUE_PERCENT = 80
LAG_SECONDS = 60  # of a standby
Problem = dict[str, str]


def problem(kind: str, text: str, app: str = "", subject: str = "", log: str = "") -> Problem:
    """A problem.

    Args:
        kind: what kind of problem, such as `down`.
        text: one sentence, without anything that the app has logged.
        app: the app, or nothing for the host.
        subject: what it is about, when a host or an app may have several of a kind: a unit, a file system, a drill.
        log: what the app has logged about it.
    """
    return {"kind": kind, "app": app, "subject": subject, "text": text, "log": log}


def check_service(app: Mapping[str, Any]) -> Iterator[Problem]:
    """Check that the live release of an app runs."""
    name = app["name"]
    if not app["live"]:
        return
    is_up = app["state"] in ("active", "reloading")
    # A service that dies again and again is down in one check and up in the next one: it is dying in all of them.
    if is_up or app["state"] in ("restarting", "activating"):
        for unit in app["died_recently"]:
            yield problem("dying", f"{unit} died in the last 15 minutes", name, unit, app["cause"])
    if not is_up:
        yield problem("down", f"down: the web service is in the state {app['state']}", name, log=app["cause"])
    elif not app["workers"]:
        yield problem("down", "down: the web service has no worker", name, log=app["cause"])
    for process, state in app["processes"].items():
        if state not in ("active", "reloading"):
            yield problem("process", f"the process {process} is {state}", name, process)


def check_requests(app: Mapping[str, Any]) -> Iterator[Problem]:
    """Check the share of requests that failed."""
    # In maintenance, every request gets the status 503.
    seen = {} if app["in_maintenance"] else app.get("requests") or {}
    requests, errors = seen.get("requests", 0), seen.get("errors", 0)
    if errors >= ERRORS_LEAST and errors >= ERRORS_SHARE * requests:
        share, minutes = 100 * errors / requests, max(1, round(seen["window_seconds"] / 60))
        yield problem("errors", f"{share:.0f} % of the requests failed in the last {minutes} min", app["name"])


def check_certificate(app: Mapping[str, Any]) -> Iterator[Problem]:
    """Check that the certificate exists and does not expire soon."""
    found, name = app.get("certificate"), app["name"]
    if not found or not app["live"]:
        return
    reason = f": {found['problem']}" if found["problem"] else ""
    if not found["is_there"]:
        yield problem("certificate", f"no certificate yet{reason}", name)
    elif found["days_left"] < 0:
        yield problem("certificate", f"the certificate has expired{reason}", name)
    elif found["days_left"] < CERTIFICATE_DAYS:
        yield problem("certificate", f"the certificate expires in {found['days_left']} days{reason}", name)


def check_releases(app: Mapping[str, Any]) -> Iterator[Problem]:
    """Check, with what only root can read, that the app of the inventory is deployed and no run was interrupted."""
    name = app["name"]
    if app.get("in_inventory") and not app["live"]:
        yield problem("absent", "stopped" if app.get("stopped") else "not deployed", name)
    if failed := app.get("failed_end"):
        if failed["tries_again"]:
            text = (
                "the host repeats the end of an interrupted run every ten seconds, without success since "
                f"{failed['since']}: {failed['error']}"
            )
        else:
            text = f"the host could not end an interrupted run, and no longer tries: {failed['error']}"
            text += "; run the same command again"
        yield problem("unfinished", text, name)
    elif app.get("unfinished") and not app.get("locked_by"):
        yield problem("unfinished", "a run was interrupted; run the same command again", name)


def check_app(app: Mapping[str, Any]) -> Iterator[Problem]:
    """The problems of an app."""
    for check in (check_service, check_requests, check_certificate, check_releases):
        yield from check(app)


def trend(samples: list[Mapping[str, Any]], mount: str) -> float | None:
    """Bytes a second by which the used space of a file system grows, as a line through its samples; None if unknown."""
    points = [(s["time"], s["disks"][mount]) for s in samples if mount in s.get("disks", {})]
    if len(points) < 3 or points[-1][0] - points[0][0] < TREND_LEAST:
        return None
    middle_x, middle_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread if spread else None


def check_disks(host: Mapping[str, Any], samples: list[Mapping[str, Any]]) -> Iterator[Problem]:
    """Check that disks are not nearly full, and will not be within a day."""
    for disk in host["disks"]:
        mount, growth = disk["mount"], trend(samples, disk["mount"])
        if disk["percent"] >= DISK_PERCENT:
            yield problem("disk", f"the disk {mount} is {disk['percent']} % full", subject=mount)
        elif disk["inodes_percent"] >= DISK_PERCENT:
            yield problem("disk", f"the disk {mount} has used {disk['inodes_percent']} % of its inodes", subject=mount)
        elif growth and growth > 0 and disk["free_bytes"] / growth < DAY:
            hours = disk["free_bytes"] / growth / 3600
            yield problem(
                "disk", f"the disk {mount} will be full in {hours:.0f} h if it grows as before", subject=mount
            )


def check_backup(backup: Mapping[str, Any] | None) -> Iterator[Problem]:
    """Check backups, their checks and drills, on a host that makes backups."""
    if backup is None:
        return
    for found in backup.get("problems") or []:
        yield problem("backup", f"backup: {found['text']}", found["app"], found["subject"])
    if backup["last_backup"] is None:
        yield problem("backup", "backup: none was made so far")


def check_alerts(alerts: Mapping[str, Any] | None, now: float) -> Iterator[Problem]:
    """Check that alerts can be sent."""
    checked = parse_time((alerts or {}).get("checked") or "")
    if checked is not None and now - checked > CHECK_AGE:
        yield problem("delivery", f"alerts: the last check is {(now - checked) / 60:.0f} min old")
    delivery = (alerts or {}).get("delivery") or {}
    since = parse_time(delivery.get("failing_since") or "")
    if since is not None and now - since > DELIVERY_AGE:
        yield problem("delivery", f"alerts can't be sent: {delivery.get('error', '')}")


def check_monitor(monitor: Mapping[str, Any] | None) -> Iterator[Problem]:
    """Check that a monitor can store metrics and send alerts."""
    if monitor is None:
        return
    if monitor["error"]:
        yield problem("delivery", monitor["error"], subject="prometheus")
    for alert in monitor["firing"]:
        yield problem("delivery", alert["text"], subject=alert["subject"])


def queue_percent(logs: Mapping[str, Any]) -> int:
    """The used space of the queue for logs that can't be sent, in per cent."""
    return round(100 * logs["waiting_bytes"] / logs["space_bytes"]) if logs["space_bytes"] else 0


def check_sending(logs: Mapping[str, Any]) -> Iterator[Problem]:
    """Check that logs are sent."""
    service = "the service logs-ship"
    if logs["state"] not in ("active", "reloading"):
        yield problem("logs", f"logs are not sent: {service} is {logs['state']}", subject="service")
    elif logs["has_died"]:
        yield problem("logs", f"logs: {service} died in the last 15 minutes", subject="service")
    elif logs["waiting_since"]:
        waiting = f"; {logs['waiting_bytes'] / 1e6:.0f} MB wait on the disk" if logs["waiting_bytes"] else ""
        yield problem("logs", f"logs are not sent since {logs['waiting_since']}: {logs['error']}{waiting}")


def check_logs(logs: Mapping[str, Any] | None) -> Iterator[Problem]:
    """Check that the logs of a host that ships them are sent, and that those that wait have space."""
    if logs is None:
        return
    yield from check_sending(logs)
    if queue_percent(logs) >= QUEUE_PERCENT:
        words = "of the space for logs that can't be sent is used; lines are lost when it is full"
        yield problem("logs", f"{queue_percent(logs)} % {words}", subject="queue")


def check_replication(replication: Mapping[str, Any] | None) -> Iterator[Problem]:
    """Check that standbys of PostgreSQL are connected and up to date, on a host that is one or has some."""
    if replication is None:
        return
    if replication["role"] == "fenced":
        yield problem("replication", "PostgreSQL is fenced: another host has its databases now", subject="fenced")
    if replication["problem"]:
        yield problem("replication", f"replication: {replication['problem']}", subject="server")
    for standby in replication["standbys"]:
        if standby["state"] == NOT_CONNECTED:
            yield problem("replication", f"{standby['name']} is not connected", subject=standby["name"])
    lag = replication["lag_seconds"]
    if replication["connected"] is False:
        yield problem("replication", "the standby is not connected to its primary", subject="primary")
    elif lag is not None and lag > LAG_SECONDS:
        yield problem("replication", f"the standby is {lag:.0f} s behind its primary", subject="lag")


def find_problems(host: Mapping[str, Any], now: float | None = None) -> list[Problem]:
    """The problems of a host and its apps, the apps first.

    Args:
        host: the state of the host, as the module host_status returns it; also `certificates`, those of a balancer, and
            `monitor`, from describe_monitor.
        now: seconds since 1970.
    """
    now = time.time() if now is None else now
    found = [problem for app in host["apps"] for problem in check_app(app)]
    for name, certificate in (host.get("certificates") or {}).items():
        found += check_certificate({"name": name, "certificate": certificate, "live": True})
    found += check_disks(host, (host.get("alerts") or {}).get("samples") or [])
    found += check_backup(host.get("backup"))
    own = tuple(f"{app['name']}{mark}" for app in host["apps"] for mark in ("@", "."))
    down = {entry["app"] for entry in found if entry["kind"] == "down"}
    for unit in host["failed_units"]:
        # A web service that has failed is a problem already.
        if not (unit.startswith(own) and unit.split("@")[0] in down):
            found.append(problem("unit", f"the unit {unit} has failed", subject=unit))
    found += check_alerts(host.get("alerts"), now)
    found += check_monitor(host.get("monitor"))
    found += check_logs(host.get("logs"))
    found += check_replication(host.get("replication"))
    return found
