"""The program that a timer runs on a host: write metrics of the host and its apps, for Prometheus.

It runs as a user without rights. The role metrics installs copies of this module and of those that it imports. Node
exporter serves the file that it writes. All its files are in memory: a full disk is reported, too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from ansible_collections.blueoctopus.site.plugins.module_utils.app_status import (
    APPS,
    certificates_of_balancer,
    describe_service,
    parse_time,
    read_events,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.checks import (
    check_sending,
    check_service,
    queue_percent,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.files import write
from ansible_collections.blueoctopus.site.plugins.module_utils.host_state import (
    describe_backup,
    disks,
    failed_units,
    needs_reboot,
    read_json,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.replication import NOT_CONNECTED
from ansible_collections.blueoctopus.site.plugins.module_utils.request_counters import (
    BOUNDS,
    Counters,
    Latency,
    count_requests,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.shipped_logs import describe_logs

FOLDER = Path("/run/metrics")
EVENTS = Path("/run/metrics-events/history")  # which root writes before each measurement
REPLICATION = Path("/run/metrics-replication/status.json")  # which root writes, too
Sample = tuple[Mapping[str, str], float]


# --- metrics --------------------------------------------------------------------------------------------------------


def label(text: str) -> str:
    """The value of a label in Prometheus's text format."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def head(name: str, kind: str, about: str) -> list[str]:
    """The first lines of a metric in Prometheus's text format."""
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]


def rows(name: str, samples: Iterable[Sample]) -> list[str]:
    """The values of a metric in Prometheus's text format."""
    lines = []
    for labels, value in samples:
        shown = ",".join(f'{key}="{label(text)}"' for key, text in labels.items())
        lines.append(f"{name}{{{shown}}} {value:.15g}" if shown else f"{name} {value:.15g}")
    return lines


def metric(name: str, kind: str, about: str, samples: Iterable[Sample]) -> list[str]:
    """The lines of a metric; none without samples."""
    lines = rows(name, samples)
    return [*head(name, kind, about), *lines] if lines else []


def histogram(name: str, about: str, latencies: Mapping[str, Latency]) -> list[str]:
    """The lines of a histogram for each app; none without apps."""
    lines = head(name, "histogram", about) if latencies else []
    for app, found in latencies.items():
        sums = list(accumulate(found.counts))
        bounds = [*(f"{bound:g}" for bound in BOUNDS), "+Inf"]
        lines += rows(f"{name}_bucket", [({"app": app, "le": le}, n) for le, n in zip(bounds, sums, strict=True)])
        lines += rows(f"{name}_sum", [({"app": app}, found.seconds)])
        lines += rows(f"{name}_count", [({"app": app}, sums[-1])])
    return lines


def request_lines(counters: Counters) -> Iterator[str]:
    """The metrics from nginx's log."""
    requests = sorted(counters.requests.items())
    counts = [({"app": app, "release": release, "status": kind}, n) for (app, release, kind), n in requests]
    about = "Requests by the class of their status; maintenance: a 503 from nginx while the app is in maintenance."
    yield from metric("app_requests_total", "counter", about, counts)
    yield from histogram("app_request_duration_seconds", "Time of requests in nginx.", counters.latencies)
    about = "Lines of nginx's log that are not requests."
    yield from metric("app_log_lines_ignored_total", "counter", about, [({}, counters.ignored)])


def confirmed_releases(events: Iterable[tuple[str, Mapping[str, Any]]], folder: Path) -> dict[str, str]:
    """The release of the last successful deploy or rollback of each app; none of an app that was stopped or removed.

    As `Releases.confirmed`, which needs root.
    """
    found: dict[str, str] = {}
    for name, event in events:
        if event["result"] == "ok" and (
            event["action"] == "stop" or not event["release"]
        ):  # or a first deploy was undone
            found.pop(name, None)
        elif event["result"] == "ok" and (folder / name / "releases" / event["release"]).is_dir():
            found[name] = event["release"]
    return found


def app_lines(
    apps: Collection[Mapping[str, Any]], events: Iterable[tuple[str, Mapping[str, Any]]], folder: Path = APPS
) -> Iterator[str]:
    """The metrics of the apps.

    Args:
        apps: `describe_service` of each app with a live release.
        events: the last deploys and rollbacks, also of apps without a live release.
        folder: the folder of the apps.
    """

    def gauge(name: str, about: str, samples: Iterable[Sample]) -> list[str]:
        return metric(name, "gauge", about, samples)

    def each(key: str) -> list[Sample]:
        return [({"app": app["name"]}, float(app[key])) for app in apps]

    problems = {(problem["app"], problem["kind"]) for app in apps for problem in check_service(app)}
    live_apps = {app["name"] for app in apps}
    events = [(name, event) for name, event in events if name in live_apps or (folder / name / "releases").is_dir()]
    is_up = {name: (name, "down") not in problems for name in live_apps}
    # The link to the live release is gone. Without a value, the alert would end.
    is_up |= dict.fromkeys(confirmed_releases(events, folder).keys() - live_apps, False)
    about = "Whether the web service of the live release runs and has a worker."
    yield from gauge("app_up", about, [({"app": name}, value) for name, value in sorted(is_up.items())])
    # A service that dies again and again is up now and then.
    died: list[Sample] = [({"app": app["name"]}, (app["name"], "dying") in problems) for app in apps]
    yield from gauge("app_died_recently", "Whether a service or a worker died in the last 15 minutes.", died)
    processes = [
        ({"app": app["name"], "process": name}, state in ("active", "reloading"))
        for app in apps
        for name, state in app["processes"].items()
    ]
    yield from gauge("app_process_up", "Whether a process beside the web service runs.", processes)
    live: list[Sample] = [({"app": app["name"], "release": app["live"]}, 1) for app in apps]
    yield from gauge("app_live_release", "The live release; the value is always 1.", live)
    yield from gauge("app_workers", "Worker processes.", each("workers"))
    yield from gauge("app_maintenance", "Whether the app is in maintenance.", each("in_maintenance"))
    memory: list[Sample] = [({"app": app["name"]}, app["memory_mib"] << 20) for app in apps]
    yield from gauge("app_memory_bytes", "Memory of the web service without file pages.", memory)
    last = dict(events)
    results: list[Sample] = [({"app": name}, event["result"] == "ok") for name, event in last.items()]
    yield from gauge("app_last_deploy_success", "Whether the last deploy or rollback succeeded.", results)
    times: list[Sample] = [({"app": name}, parse_time(event["time"]) or 0) for name, event in last.items()]
    yield from gauge("app_last_deploy_timestamp_seconds", "When the last deploy or rollback ended.", times)


def certificate_lines(certificates: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """The metrics of certificates, by the names of the apps."""
    found = [(name, entry) for name, entry in certificates.items() if entry]
    left: list[Sample] = [({"app": name}, entry["days_left"] * 86400 * entry["is_there"]) for name, entry in found]
    about = "Time until the certificate expires, in whole days; 0 without one."
    return metric("app_certificate_remaining_seconds", "gauge", about, left)


def host_lines(host: Mapping[str, Any]) -> Iterator[str]:
    """The metrics of the host.

    Args:
        host: `disks`, `failed_units`, `backup`, `logs`, `replication` and `reboot_needed`, as the module host_status
            returns them.
    """
    used = {"percent": "Used space in per cent", "inodes_percent": "Used inodes in per cent"}
    for key, about in {"size_bytes": "Size", "free_bytes": "Free space", **used}.items():
        disks: list[Sample] = [({"mount": disk["mount"]}, disk[key]) for disk in host["disks"]]
        yield from metric(f"host_disk_{key}", "gauge", f"{about} of a file system that apps write to.", disks)
    units = [({"unit": unit}, 1.0) for unit in host["failed_units"]]
    yield from metric("host_unit_failed", "gauge", "A systemd unit that has failed; the value is always 1.", units)
    about = "Whether an update needs a reboot."
    yield from metric("host_reboot_needed", "gauge", about, [({}, host["reboot_needed"])])
    if host["backup"] is not None:
        made = parse_time(host["backup"].get("last_backup") or "")
        is_good = made is not None and not host["backup"].get("problem")
        about = "Whether the backups of the host are complete, checked and not too old."
        yield from metric("host_backup_good", "gauge", about, [({}, is_good)])
        about = "When the oldest of the newest backups was made; 0 when one is missing."
        yield from metric("host_backup_timestamp_seconds", "gauge", about, [({}, made or 0)])
    if host["logs"] is not None:
        is_sent = not any(check_sending(host["logs"]))
        yield from metric("host_logs_sent", "gauge", "Whether the host can send its logs.", [({}, is_sent)])
        about = "Used space of the queue for logs that can't be sent, in per cent."
        yield from metric("host_logs_queue_percent", "gauge", about, [({}, queue_percent(host["logs"]))])
    if host["replication"] is not None:
        yield from replication_lines(host["replication"])


def replication_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The metrics of the replication of PostgreSQL, on a host that has standbys, is one or is fenced."""
    about = "Whether the server was replaced by its standby, and must not be started."
    yield from metric("host_replication_fenced", "gauge", about, [({}, found["role"] == "fenced")])
    connected: list[Sample] = [({"standby": one["name"]}, one["state"] != NOT_CONNECTED) for one in found["standbys"]]
    connected += [({}, found["connected"])] if found["connected"] is not None else []
    about = "Whether a standby is connected to its primary: on the primary by standby, on the standby without a label."
    yield from metric("host_replication_connected", "gauge", about, connected)
    lags = [({"standby": one["name"]}, one["lag_bytes"]) for one in found["standbys"] if one["lag_bytes"] is not None]
    about = "WAL of the primary that a standby has not replayed."
    yield from metric("host_replication_lag_bytes", "gauge", about, lags)
    if found["lag_seconds"] is not None:
        about = "How far a standby is behind its primary."
        yield from metric("host_replication_lag_seconds", "gauge", about, [({}, found["lag_seconds"])])


def main() -> None:
    apps = {path.parent.name: path.readlink().name for path in sorted(APPS.glob("*/live")) if path.is_symlink()}
    state = count_requests(read_json(FOLDER / "state.json") or {}, apps)
    host = {
        "disks": disks(),
        "failed_units": failed_units(),
        "backup": describe_backup(),
        "logs": describe_logs(),
        "replication": read_json(REPLICATION),
        "reboot_needed": needs_reboot(),
    }
    described = [describe_service(name) for name in apps]
    certificates = {app["name"]: app["certificate"] for app in described} | certificates_of_balancer()
    lines = [
        *request_lines(Counters.load(state)),
        *app_lines(described, read_events(EVENTS), APPS),
        *certificate_lines(certificates),
        *host_lines(host),
        *metric("host_measured_timestamp_seconds", "gauge", "When this was measured.", [({}, time.time())]),
    ]
    write(FOLDER / "state.json", json.dumps(state), 0o600)
    write(FOLDER / "site.prom", "\n".join(lines) + "\n", 0o640)
