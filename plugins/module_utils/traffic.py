"""Requests, errors and latency of each site, from nginx's JSON log: read backwards, bounded in time and memory."""

from __future__ import annotations

import contextlib
import datetime
import functools
import gzip
import json
import math
import os
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ansible_collections.blueoctopus.site.plugins.module_utils.logs import rotated

LOGS = Path("/var/log/nginx")
BLOCK = 1 << 20  # bytes
MOST_BYTES = 2 << 30  # of all files
LONGEST_LINE = 1 << 20  # bytes; nginx's own lines are shorter
SHORTEST = 0.001  # seconds; nginx counts milliseconds
GROWTH = math.log(1.1)  # each class of the latency is a tenth longer than the one before
FAILED_KEPT = 5  # failed requests of each site, the newest ones
WINDOW = 300  # seconds, of which the status shows the requests
DAY = 86400  # seconds
ERROR_STATUS = 500
# nginx's own answer in maintenance, which is no error. nginx escapes the quotes of a client.
CLOSED, NOT_PASSED_ON = b"503", b',"upstream_status":"",'
DURATION = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?")  # in seconds
UPGRADED = b"101"  # a websocket, whose duration is no latency of the app


@functools.lru_cache(maxsize=4096)
def seconds_of(text: bytes) -> float:
    """A time of the log, in seconds since 1970."""
    return datetime.datetime.fromisoformat(text.decode()).timestamp()


@functools.lru_cache(maxsize=65536)
def latency_class(text: bytes) -> int:
    """The class of a duration in seconds.

    Raises:
        ValueError: when it is none, such as infinity.
    """
    if not DURATION.fullmatch(text):
        raise ValueError
    return max(0, round(math.log(max(float(text), SHORTEST) / SHORTEST) / GROWTH))


@dataclass
class Bucket:
    """The requests of a site in a period."""

    requests: int = 0
    errors: int = 0
    latencies: dict[int, int] = field(default_factory=dict)  # number of requests by class

    def add(self, other: Bucket) -> None:
        """Add the requests of another period."""
        self.requests += other.requests
        self.errors += other.errors
        for number, count in other.latencies.items():
            self.latencies[number] = self.latencies.get(number, 0) + count

    def quantile(self, share: float) -> float | None:
        """The duration in seconds that a share of the requests does not exceed, to about five per cent."""
        remaining = math.ceil(share * sum(self.latencies.values()))
        for number in sorted(self.latencies):
            remaining -= self.latencies[number]
            if remaining <= 0:
                return round(SHORTEST * math.exp(number * GROWTH), 3)
        return None


@dataclass
class Traffic:
    """The requests of some sites in a log.

    Args:
        since: start of the period, in seconds since 1970; later than requested when the time was too short.
        until: its end.
        step: length of a bucket, in seconds.
        sites: the buckets of each site, by their starts.
        failed: the newest failed requests of each site.
        ignored: number of lines that are no requests, such as garbage.
    """

    since: float
    until: float
    step: int
    sites: dict[str, dict[int, Bucket]]
    failed: dict[str, list[dict[str, Any]]]
    ignored: int = 0

    def summary(self, site: str) -> dict[str, Any]:
        """Requests and errors a minute, and the latency, of a site in the whole period."""
        total, period = Bucket(), max(1.0, self.until - self.since)
        for bucket in self.sites.get(site, {}).values():
            total.add(bucket)
        return {
            "window_seconds": round(period),
            "per_minute": round(total.requests * 60 / period, 1),
            "errors_per_minute": round(total.errors * 60 / period, 1),
            "requests": total.requests,
            "errors": total.errors,
            "p50_seconds": total.quantile(0.5),
            "p95_seconds": total.quantile(0.95),
        }

    def series(self, site: str) -> list[dict[str, Any]]:
        """The buckets of a site in order of time; None as latency where it had no request."""
        found, first = self.sites.get(site, {}), int(self.since // self.step) * self.step
        rows = []
        for start in range(first, int(self.until) + 1, self.step):
            bucket = found.get(start, Bucket())
            numbers = {"requests": bucket.requests, "errors": bucket.errors}
            rows.append({"time": start, **numbers, "p50": bucket.quantile(0.5), "p95": bucket.quantile(0.95)})
        return rows


def line_blocks(file: BinaryIO) -> Iterator[list[bytes]]:
    """The lines of a file in blocks, the last first; in a block, too."""
    position, rest = file.seek(0, os.SEEK_END), b""
    while position:
        size = min(BLOCK, position)
        position -= size
        file.seek(position)
        rest, *lines = (file.read(size) + rest[:LONGEST_LINE]).split(b"\n")
        lines.reverse()
        yield lines
    yield [rest]


def unpacked_blocks(path: Path) -> Iterator[list[bytes]]:
    """The lines of a compressed file in blocks. They are in the order of the file, and none marks its start."""
    with contextlib.suppress(EOFError, OSError, gzip.zlib.error), gzip.open(path, "rb") as file:  # type: ignore[attr-defined]
        while lines := file.readlines(BLOCK):
            yield lines


def failed_request(line: bytes) -> dict[str, Any] | None:
    """Time, status, method and path of a failed request; None if the line is garbage. A query may hold secrets."""
    try:
        seen = json.loads(line)
        path = str(seen["uri"]).partition("?")[0]
        return {"time": seen["time"], "status": int(seen["status"]), "method": str(seen["method"]), "path": path[:200]}
    except (ValueError, KeyError, TypeError):
        return None


class Reader:
    """Adds the lines of log files to the traffic of some sites.

    Args:
        traffic: what it adds to.
        deadline: when it stops, by `time.monotonic()`.
    """

    def __init__(self, traffic: Traffic, deadline: float) -> None:
        self.traffic = traffic
        self.deadline = deadline
        self.sites = {site.encode(): (buckets, traffic.failed[site]) for site, buckets in traffic.sites.items()}
        self.oldest = traffic.until

    def read(self, lines: list[bytes], keep_failed: bool) -> bool:
        """Add lines; return whether they are all from before the period. Time and site have fixed places."""
        since, until, step = self.traffic.since, self.traffic.until, self.traffic.step
        oldest, ignored, is_inside, is_before = self.oldest, 0, False, False
        for line in lines:
            try:
                moment = seconds_of(line[9:34])
                if line[:9] != b'{"time":"' or line[34:44] != b'","site":"':
                    raise ValueError
                if not since <= moment <= until:
                    is_before |= moment < since
                    continue
                is_inside = True
                if moment < oldest:
                    oldest = moment
                entry = self.sites.get(line[44 : line.index(b'"', 44)])
                if entry is None:
                    continue
                at = line.index(b',"status":') + 10  # nginx escapes the quotes of a client
                status = line[at : at + 3]
                at = line.index(b',"seconds":', at) + 11
                number = latency_class(line[at : line.index(b",", at)])
                is_error = int(status) >= ERROR_STATUS and not (status == CLOSED and NOT_PASSED_ON in line[at:])
            except ValueError:
                ignored += bool(line)
                continue
            start = int(moment // step) * step
            bucket = entry[0].get(start)
            if bucket is None:
                bucket = entry[0][start] = Bucket()
            bucket.requests += 1
            if status != UPGRADED:
                bucket.latencies[number] = bucket.latencies.get(number, 0) + 1
            if is_error:
                bucket.errors += 1
                if keep_failed and len(entry[1]) < FAILED_KEPT and (failed := failed_request(line)):
                    entry[1].append(failed)
        self.oldest = oldest
        self.traffic.ignored += ignored
        return is_before and not is_inside

    def read_all(self, files: list[tuple[Path, BinaryIO]]) -> bool:
        """Add files, the newest first; return whether the start of the period was reached before the deadline."""
        read = 0
        for path, file in files:
            is_plain = path.suffix != ".gz"
            for lines in line_blocks(file) if is_plain else unpacked_blocks(path):
                # Lines of several processes are not quite in order, and clocks are set: a whole block decides.
                if self.read(lines, is_plain) and is_plain:
                    return True
                read += BLOCK
                if time.monotonic() > self.deadline or read > MOST_BYTES:
                    return False
        return True


def read_traffic(
    sites: Collection[str], since: float, until: float, step: int, seconds: float, folder: Path = LOGS
) -> Traffic:
    """Read the traffic of some sites.

    Args:
        sites: their names.
        since: start of the period, in seconds since 1970.
        until: end of the period.
        step: length of a bucket, in seconds.
        seconds: how long the reading may take.
        folder: the folder of nginx's log files.
    """
    traffic = Traffic(since, until, step, {site: {} for site in sites}, {site: [] for site in sites})
    reader = Reader(traffic, time.monotonic() + seconds)
    with contextlib.ExitStack() as opened:
        files: dict[tuple[int, int], tuple[Path, BinaryIO]] = {}
        # Opened before the first is read: a rotation that comes in between renames them.
        for path in rotated(folder, "access.log"):
            with contextlib.suppress(OSError):
                file = opened.enter_context(path.open("rb"))
                about = os.fstat(file.fileno())
                if about.st_mtime >= since:
                    files.setdefault((about.st_dev, about.st_ino), (path, file))
        if not reader.read_all(list(files.values())):
            traffic.since = max(since, reader.oldest)
    return traffic
