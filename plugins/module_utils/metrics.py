"""The program that a timer runs on a host: write metrics of the host and its apps, for Prometheus.

It runs as a user without rights. The role metrics installs copies of this module and of those that it imports. Node
exporter serves the file that it writes. All its files are in memory: a full disk is reported, too.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import time
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from ansible_collections.blueoctopus.site.plugins.module_utils.app_status import (
    APPS,
    describe_service,
    parse_time,
    read_events,
    stored_certificate,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.checks import check_service
from ansible_collections.blueoctopus.site.plugins.module_utils.files import write
from ansible_collections.blueoctopus.site.plugins.module_utils.host_state import (
    describe_backup,
    disks,
    failed_units,
    needs_reboot,
    read_json,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.logs import rotated
from ansible_collections.blueoctopus.site.plugins.module_utils.traffic import CLOSED, LOGS, NOT_PASSED_ON, UPGRADED

FOLDER = Path("/run/metrics")
EVENTS = Path("/run/metrics-events/history")  # which root writes before each measurement
BLOCK = 1 << 20  # bytes; a longer line is garbage
MOST_BYTES = 64 << 20  # of a log file in one measurement; older lines are skipped
HAPROXY = Path("/etc/haproxy/haproxy.cfg")
BALANCED = Path("/etc/certificates")  # the settings of the certificates that a balancer requests
RELEASES_KEPT = 10  # of each app, the newest ones
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds, of the latency's histogram
OTHER = b"other"  # any release that was never live, as an app can send any text as its release
DURATION = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?")
Sample = tuple[Mapping[str, str], float]


# --- nginx's log ----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=65536)
def bound_of(text: bytes) -> tuple[int, float]:
    """The class of a duration in the histogram, and the duration in seconds.

    Raises:
        ValueError: when it is none.
    """
    if not DURATION.fullmatch(text):
        raise ValueError
    seconds = float(text)
    return bisect_left(BOUNDS, seconds), seconds


@functools.lru_cache(maxsize=1024)
def status_class(status: bytes) -> str:
    """The class of a status, such as 2xx.

    Raises:
        ValueError: when it is none.
    """
    if not 100 <= int(status) <= 599:
        raise ValueError
    return f"{chr(status[0])}xx"


@dataclass
class Latency:
    """The durations of an app's requests.

    Args:
        counts: number of requests in each class; the last one has no bound.
        seconds: their sum.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    seconds: float = 0.0


@dataclass
class Counters:
    """The counters since the boot of the host.

    Args:
        requests: number of requests by app, release and class of the status.
        latencies: the durations by app.
        ignored: number of lines that are no requests, such as garbage.
    """

    requests: dict[tuple[str, str, str], int] = field(default_factory=dict)
    latencies: dict[str, Latency] = field(default_factory=dict)
    ignored: int = 0

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> Counters:
        """The counters that `dump` has stored."""
        latencies = {app: Latency(list(counts), seconds) for app, counts, seconds in state.get("latencies", [])}
        requests = {(app, release, status): count for app, release, status, count in state.get("requests", [])}
        return cls(requests, latencies, state.get("ignored", 0))

    def dump(self) -> dict[str, Any]:
        """The counters in a form that JSON can store."""
        return {
            "requests": [[*key, count] for key, count in self.requests.items()],
            "latencies": [[app, found.counts, found.seconds] for app, found in self.latencies.items()],
            "ignored": self.ignored,
        }

    def add(self, lines: Iterable[bytes], sites: Mapping[bytes, str]) -> None:
        """Count the lines of a log.

        Args:
            lines: as the role nginx formats them. nginx escapes the quotes of a client, so no client can write a key.
            sites: the names of the apps. Lines of other sites, such as of unknown host names, are not counted.
        """
        known = {(app, release.encode()) for app, release, _ in self.requests}
        for line in lines:
            try:
                if line[:9] != b'{"time":"' or line[34:44] != b'","site":"' or line[-1:] != b"}":
                    raise ValueError
                app = sites.get(line[44 : line.index(b'"', 44)])
                if app is None:
                    continue
                at = line.index(b',"status":') + 10
                status = line[at : at + 3]
                kind = status_class(status)
                at = line.index(b',"seconds":', at) + 11
                number, seconds = bound_of(line[at : line.index(b",", at)])
                is_closed = status == CLOSED and line.find(NOT_PASSED_ON, at) > 0
                at = line.index(b',"release":"', at) + 12
                release = line[at : line.index(b'"', at)]
                if release and (app, release) not in known:
                    release = OTHER
            except ValueError:
                self.ignored += bool(line)
                continue
            key = (app, release.decode(), "maintenance" if is_closed else kind)
            self.requests[key] = self.requests.get(key, 0) + 1
            if status != UPGRADED:  # a websocket, whose duration is no latency of the app
                latency = self.latencies.setdefault(app, Latency())
                latency.counts[number] += 1
                latency.seconds += seconds

    def add_file(self, file: BinaryIO, offset: int, sites: Mapping[bytes, str]) -> int:
        """Count the complete lines of a file from an offset on; return the offset of the first byte that remains."""
        offset = max(offset, file.seek(0, os.SEEK_END) - MOST_BYTES)
        file.seek(offset)
        while block := file.read(BLOCK):
            complete, newline, _ = block.rpartition(b"\n")
            if newline:
                self.add(complete.split(b"\n"), sites)
                offset += len(complete) + 1
            elif len(block) == BLOCK:
                self.ignored += 1
                offset += BLOCK
            else:  # a line that nginx has not finished
                break
            file.seek(offset)
        return offset

    def expect(self, apps: Mapping[str, str]) -> None:
        """Begin all counters of the live releases with 0: Prometheus does not see the first value of a counter.

        Args:
            apps: the live release of each app.
        """
        for app, live in apps.items():
            for release, kind in (
                *((live, kind) for kind in ("2xx", "3xx", "4xx", "5xx")),
                ("", "5xx"),
                (OTHER.decode(), "5xx"),
            ):
                self.requests.setdefault((app, release, kind), 0)
            self.latencies.setdefault(app, Latency())

    def prune(self, apps: Collection[str]) -> None:
        """Forget apps that are gone, and the oldest releases of the others: an ID begins with the time."""
        releases: dict[str, set[str]] = {}
        for app, release, _ in self.requests:
            releases.setdefault(app, set()).add(release)
        always = {"", OTHER.decode()}
        kept = {
            app: always | set(sorted(releases.get(app, set()) - always, reverse=True)[:RELEASES_KEPT]) for app in apps
        }
        self.requests = {key: count for key, count in self.requests.items() if key[1] in kept.get(key[0], ())}
        self.latencies = {app: found for app, found in self.latencies.items() if app in apps}


def open_logs(
    opened: contextlib.ExitStack, known: Mapping[str, Any], folder: Path = LOGS
) -> list[tuple[BinaryIO, int, int]]:
    """The log files with lines that were not counted, the oldest first.

    Args:
        opened: closes the files.
        known: `inode` and `offset` of the last measurement; empty at the first one, which begins at the end of the log.
        folder: the folder of the log files.

    Returns:
        Each file with its inode and the offset to begin at.
    """
    found: list[tuple[BinaryIO, int, int]] = []
    for path in rotated(folder, "access.log"):
        if path.suffix == ".gz":
            continue
        with contextlib.suppress(OSError):
            file = opened.enter_context(path.open("rb"))
            about = os.fstat(file.fileno())
            if not known:
                return [(file, about.st_ino, about.st_size)]
            is_known = about.st_ino == known["inode"]
            # A file that has become shorter was emptied.
            offset = known["offset"] if is_known and known["offset"] <= about.st_size else 0
            if all(about.st_ino != inode for _, inode, _ in found):  # else it was renamed in the meantime
                found.append((file, about.st_ino, offset))
            if is_known:
                return found[::-1]
    return found[:1]  # the last one is compressed or gone


def count_requests(state: Mapping[str, Any], apps: Mapping[str, str], folder: Path = LOGS) -> dict[str, Any]:
    """Count the requests since the last measurement, and return the new state.

    Args:
        state: the state after the last measurement; empty at the first one.
        apps: the live release of each app.
        folder: the folder of the log files.
    """
    counters, position = Counters.load(state), dict(state.get("log") or {})
    sites = {app.encode(): app for app in apps}
    counters.expect(apps)  # the releases that are counted by their names
    with contextlib.ExitStack() as opened:
        for file, inode, offset in open_logs(opened, position, folder):
            offset = counters.add_file(file, offset, sites)
            # nginx still writes to the former file until the new one has lines.
            if offset or not position:
                position = {"inode": inode, "offset": offset}
    counters.prune(apps)
    return {"log": position, **counters.dump()}


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


def app_lines(apps: Collection[Mapping[str, Any]], events: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    """The metrics of the apps, from `describe_service` of each, and their last deploys and rollbacks."""

    def gauge(name: str, about: str, samples: Iterable[Sample]) -> list[str]:
        return metric(name, "gauge", about, samples)

    def each(key: str) -> list[Sample]:
        return [({"app": app["name"]}, float(app[key])) for app in apps]

    problems = {(problem["app"], problem["kind"]) for app in apps for problem in check_service(app)}
    about = "Whether the web service of the live release runs and has a worker."
    yield from gauge("app_up", about, [({"app": app["name"]}, (app["name"], "down") not in problems) for app in apps])
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
    last = {name: event for name, event in events if name in {app["name"] for app in apps}}
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


def certificates_of_balancer(folder: Path = BALANCED) -> dict[str, dict[str, Any] | None]:
    """The certificates that a balancer has requested, by the names of the apps; none on another host."""
    names = [path.stem for path in sorted(folder.glob("*.json"))] if HAPROXY.exists() else []
    return {name: stored_certificate(name) for name in names}


def host_lines(host: Mapping[str, Any]) -> Iterator[str]:
    """The metrics of the host.

    Args:
        host: `disks`, `failed_units`, `backup` and `reboot_needed`, as the module host_status returns them.
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


def main() -> None:
    apps = {path.parent.name: path.readlink().name for path in sorted(APPS.glob("*/live")) if path.is_symlink()}
    state = count_requests(read_json(FOLDER / "state.json") or {}, apps)
    host = {
        "disks": disks(),
        "failed_units": failed_units(),
        "backup": describe_backup(),
        "reboot_needed": needs_reboot(),
    }
    described = [describe_service(name) for name in apps]
    certificates = {app["name"]: app["certificate"] for app in described} | certificates_of_balancer()
    lines = [
        *request_lines(Counters.load(state)),
        *app_lines(described, read_events(EVENTS)),
        *certificate_lines(certificates),
        *host_lines(host),
        *metric("host_measured_timestamp_seconds", "gauge", "When this was measured.", [({}, time.time())]),
    ]
    write(FOLDER / "state.json", json.dumps(state), 0o600)
    write(FOLDER / "site.prom", "\n".join(lines) + "\n", 0o640)
