"""Counters of the requests in nginx's log, for the program of the role metrics: each line is counted once."""

from __future__ import annotations

import contextlib
import functools
import os
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ansible_collections.blueoctopus.site.plugins.module_utils.logs import rotated
from ansible_collections.blueoctopus.site.plugins.module_utils.traffic import (
    CLOSED,
    DURATION,
    LOGS,
    NOT_PASSED_ON,
    UPGRADED,
)

BLOCK = 1 << 20  # bytes; a longer line is garbage
MOST_BYTES = 64 << 20  # of a log file in one measurement; older lines are skipped
RELEASES_KEPT = 10  # of each app, the newest ones
# Seconds, of the latency's histogram. The setting monitor_latency of the role monitor is one of them.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0, 10.0)
OTHER = b"other"  # any release that was never live, as an app can send any text as its release


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
        """The counters that `dump` has stored, without durations for which another version had other bounds."""
        latencies = {
            app: Latency(list(counts), seconds)
            for app, counts, seconds in state.get("latencies", [])
            if len(counts) == len(BOUNDS) + 1
        }
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
