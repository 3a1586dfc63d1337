"""Read what an app, its processes and timers, and nginx have logged on a host, the newest entries first."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import heapq
import json
import os
import re
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote

BLOCK = 1 << 16  # bytes
MOST_LINES = 500_000  # lines of a source that are read; a search in a huge log ends there
MOST_OUTCOMES = 20_000  # requests that are counted; the newest
# A control character could change the terminal on which the log is shown.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
ERROR_LINE = re.compile(r"(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) \[(\w+)\] [\d#]+: (.*)")

Entry = dict[str, Any]


def parse_since(text: str) -> float:
    """A time as systemd writes it, such as `1 hour ago`, `today` or `2026-01-02 03:04`, in seconds since 1970.

    Raises:
        ValueError: when systemd does not understand it.
    """
    command = ["systemd-analyze", "timestamp", "--", text]
    shown = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"}).stdout
    found = re.search(r"UNIX seconds: @([\d.]+)", shown)
    if not found:
        raise ValueError(text)
    return float(found[1])


def entry(time: float, source: str, text: str) -> Entry:
    """One entry, without characters that control a terminal."""
    return {"time": time, "source": source, "text": CONTROL.sub(lambda c: f"\\x{ord(c[0]):02x}", text.rstrip())}


# --- the journal --------------------------------------------------------------------------------------------------


def unit_source(name: str, unit: str) -> str:
    """The source of an entry from the name of its unit: `web`, or the name of a process, a timer or another command."""
    if unit.startswith("release-build-"):
        return "build"
    middle = unit.removeprefix(name).partition("@")[0].strip(".")
    return re.sub(r"\.\d+$", "", middle).partition(".service")[0] or "web"


def decode(message: Any) -> str:
    """The text of a message: journalctl lists bytes that are no text, and the messages of an entry with several."""
    if isinstance(message, list) and all(isinstance(part, int) for part in message):
        return bytes(message).decode(errors="replace")
    return "\n".join(map(decode, message)) if isinstance(message, list) else str(message)


def journal_entries(name: str, since: float) -> Iterator[Entry]:
    """The entries of the app's units in the journal, the newest first."""
    patterns = [f"{name}@*", f"{name}.*", f"release-build-{name}.*"]
    command = ["journalctl", "--reverse", "--output=json", "--all", "--quiet", f"--since=@{since:.0f}"]
    with subprocess.Popen([*command, *(f"--unit={p}" for p in patterns)], stdout=subprocess.PIPE) as reader:
        try:
            for line in reader.stdout or ():
                fields = json.loads(line)
                message = fields.get("MESSAGE") or ""
                message = decode(message)
                unit = fields.get("_SYSTEMD_UNIT", "")
                source = "systemd" if "UNIT" in fields and unit == "init.scope" else unit_source(name, unit)
                yield entry(int(fields["__REALTIME_TIMESTAMP"]) / 1e6, source, message)
        finally:
            reader.terminate()


# --- nginx --------------------------------------------------------------------------------------------------------


def reversed_lines(path: Path) -> Iterator[str]:
    """The lines of a file, the last first; of a compressed one, too."""
    if path.suffix == ".gz":
        with gzip.open(path, "rt", errors="replace") as compressed:
            yield from reversed(deque(compressed, maxlen=MOST_LINES))
        return
    with path.open("rb") as file:
        position, rest = file.seek(0, os.SEEK_END), b""
        while position:
            size = min(BLOCK, position)
            position -= size
            file.seek(position)
            first, *lines = (file.read(size) + rest).split(b"\n")
            yield from (line.decode(errors="replace") for line in reversed(lines) if line)
            rest = first
        if rest:
            yield rest.decode(errors="replace")


def rotated(folder: Path, name: str) -> list[Path]:
    """A log file and its rotated predecessors, the newest first."""
    numbers = {path: re.fullmatch(rf"{re.escape(name)}(?:\.(\d+)(?:\.gz)?)?", path.name) for path in folder.glob("*")}
    return [path for path, found in sorted(((p, int(f[1] or 0)) for p, f in numbers.items() if f), key=lambda x: x[1])]


def read_back(folder: Path, name: str, since: float, parse: Callable[[str], Entry | None]) -> Iterator[Entry]:
    """The entries of a log file and its predecessors since a time, the newest first."""
    for path in rotated(folder, name):
        if path.stat().st_mtime < since:
            return
        for line in islice(reversed_lines(path), MOST_LINES):
            if not (found := parse(line)):
                continue
            if found["time"] < since:
                return
            yield found


def parse_request(site: str, line: str) -> Entry | None:
    """An entry from a line of nginx's JSON log; None when it belongs to another site."""
    if f'"site":"{site}"' not in line:
        return None
    try:
        seen = json.loads(line)
        time = datetime.datetime.fromisoformat(seen["time"]).timestamp()
        text = f"{seen['status']} {seen['method']} {seen['uri']} {seen['seconds']:.3f} s {seen['client']}"
    except (ValueError, KeyError, TypeError):
        return None
    return entry(time, "nginx", text)


def parse_outcome(site: str, line: str) -> Entry | None:
    """Release and status of a request, from a line of nginx's JSON log; None for the health checks of the host."""
    if f'"site":"{site}"' not in line or '"user_agent":"health-check"' in line:
        return None
    try:
        seen = json.loads(line)
        time = datetime.datetime.fromisoformat(seen["time"]).timestamp()
        return {"time": time, "release": seen["release"], "status": int(seen["status"])}
    except (ValueError, KeyError, TypeError):
        return None


def count_outcomes(folder: Path, site: str, release: str, switched: float, before: float) -> list[tuple[int, int]]:
    """Compare a new release with what was there before: requests of clients, and how many got a status of 500 or more.

    Args:
        folder: nginx's logs.
        site: the app.
        release: the new release. A response of nginx itself after the switch counts for it.
        switched: time of the switch, in seconds since 1970.
        before: seconds before the switch that are counted, too.

    Returns:
        the counts before, and those of the new release.
    """
    counts = [[0, 0], [0, 0]]
    entries = read_back(folder, "access.log", switched - before, lambda line: parse_outcome(site, line))
    for found in islice(entries, MOST_OUTCOMES):
        if found["release"] == release and found["time"] < int(switched):
            continue  # an earlier attempt to deploy it
        is_new = found["release"] == release or (not found["release"] and found["time"] >= switched)
        counts[is_new][0] += 1
        counts[is_new][1] += found["status"] >= 500
    return [(requests, failed) for requests, failed in counts]


def parse_error(name: str, names: set[str], paths: Mapping[str, Mapping[str, str]], line: str) -> Entry | None:
    """An entry from a line of nginx's error log; None when it belongs to another app.

    Args:
        name: the app.
        names: the names of the servers of its site.
        paths: for each domain, the apps that have a path of it, by these paths.
        line: the line.
    """
    found = ERROR_LINE.match(line)
    server = re.search(r", server: ([^,]+)", line)
    if not found or not server:
        return None
    request = re.search(r', request: "\S+ ([^\s?"]+)', line)
    path = unquote(request[1]) if request else ""
    owners = paths.get(server[1], {})
    owner = max((prefix for prefix in owners if path.startswith(prefix)), key=len, default="")
    if owners[owner] != name if owner else server[1] not in names:
        return None
    time = datetime.datetime.strptime(found[1], "%Y/%m/%d %H:%M:%S").astimezone().timestamp()
    return entry(time, "nginx", f"{found[2]}: {found[3]}")


def server_names(site: Path) -> set[str]:
    """The first name of each server of an app's site, which nginx writes to its error log."""
    text = site.read_text() if site.exists() else ""
    return {names.split()[0] for names in re.findall(r"^\s*server_name ([^;]+);", text, re.MULTILINE)}


def app_paths(folder: Path) -> dict[str, dict[str, str]]:
    """For each domain, the apps that have a path of it, by these paths.

    Args:
        folder: the folder that nginx includes, with a folder NAME.conf for each app and a file DOMAIN.conf in it.
    """
    found: dict[str, dict[str, str]] = {}
    for site in folder.glob("*.conf/*.conf"):
        with contextlib.suppress(OSError):  # a release that is switched at this moment
            location = re.search(r"^\s*location (/\S*/) \{", site.read_text(), re.MULTILINE)
            if location:
                found.setdefault(site.stem, {})[location[1]] = site.parent.stem
    return found


# --- all sources --------------------------------------------------------------------------------------------------


def newest(sources: Iterable[Iterator[Entry]], pattern: re.Pattern[str], lines: int) -> tuple[list[Entry], bool]:
    """The newest entries of all sources that match, the oldest first, and whether there are no more."""
    merged = heapq.merge(*sources, key=lambda found: -found["time"])
    matching = (found for found in merged if pattern.search(found["text"]))
    found = list(islice(matching, lines + 1))
    for source in sources:
        source.close()  # type: ignore[attr-defined]
    return found[:lines][::-1], len(found) <= lines
