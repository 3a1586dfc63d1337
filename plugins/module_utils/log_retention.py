"""The program that logrotate runs on a host: remove the requests of each site from nginx's old logs after its days.

The role nginx installs copies of this module and of those that it imports. All sites share a log, and logrotate keeps
as many files of it as the site with the most days needs. A rotated file is a day: its number tells how old it is,
whatever the clock says.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from ansible_collections.blueoctopus.site.plugins.module_utils.files import read, write
from ansible_collections.blueoctopus.site.plugins.module_utils.logs import rotated
from ansible_collections.blueoctopus.site.plugins.module_utils.traffic import LOGS, LONGEST_LINE

STATE = Path("/var/lib/nginx-log/state.json")
NAME = "access.log"
LEVEL = 6  # of the compression, as logrotate's
OTHERS = ""  # requests for unknown host names, and lines that are no requests


def site_of(line: bytes, days: Mapping[str, int]) -> str:
    """The site of a line, as the role nginx formats it; OTHERS if it has no days of its own."""
    if line[:9] == b'{"time":"' and line[34:44] == b'","site":"':
        name = line[44 : line.find(b'"', 44)].decode(errors="replace")
        return name if name in days else OTHERS
    return OTHERS


def lines_of(file: gzip.GzipFile) -> Iterator[bytes]:
    """The lines of a file; a line that is too long, in parts. A damaged archive ends where it is damaged."""
    with contextlib.suppress(EOFError, gzip.BadGzipFile, gzip.zlib.error):  # type: ignore[attr-defined]
        while line := file.readline(LONGEST_LINE):
            yield line


def keep_only(path: Path, kept: set[str], days: Mapping[str, int]) -> None:
    """Keep only the lines of some sites in a compressed log file, in one step. Its time, owner and mode stay.

    Args:
        path: the file.
        kept: the sites whose lines stay, and OTHERS.
        days: the days of each site.
    """
    about, removed = path.stat(), 0
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with (
        gzip.open(path, "rb") as file,
        os.fdopen(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as raw,
    ):
        with gzip.GzipFile("", "wb", LEVEL, raw, about.st_mtime) as packed:
            for line in lines_of(file):
                if site_of(line, days) in kept:
                    packed.write(line)
                else:
                    removed += 1
        os.fchown(raw.fileno(), about.st_uid, about.st_gid)
        os.fchmod(raw.fileno(), about.st_mode & 0o777)
        os.fsync(raw.fileno())
    if removed:
        os.utime(new, ns=(about.st_atime_ns, about.st_mtime_ns))
        new.replace(path)
    else:
        new.unlink()


def apply_retention(days: Mapping[str, int], folder: Path = LOGS, state: Path = STATE) -> None:
    """Remove the requests of each site from the files that are older than its days.

    Args:
        days: how many rotated files have the requests of each site; OTHERS is one of them.
        folder: nginx's logs.
        state: a file with what was done, so that no file is read twice for the same.
    """
    known: dict[str, list[str]] = {}
    with contextlib.suppress(ValueError):
        known = json.loads(read(state) or "{}")
    done = {}
    for path in rotated(folder, NAME):
        number = int((re.search(r"\.(\d+)\.gz$", path.name) or ["", "0"])[1])
        kept = {site for site, most in days.items() if number <= most}
        if kept == {*days}:
            continue  # also the newest files, which are not compressed: nginx may still write to them
        about = path.stat()
        key = f"{about.st_ino} {about.st_mtime_ns}"
        if known.get(key) != sorted(kept):
            keep_only(path, kept, days)
            about = path.stat()
        done[f"{about.st_ino} {about.st_mtime_ns}"] = sorted(kept)
    write(state, json.dumps(done), 0o600)


def main() -> None:
    """The arguments are the days of other lines, and SITE=DAYS for each site."""
    others, *sites = sys.argv[1:]
    named = dict(site.split("=", 1) for site in sites)
    apply_retention({OTHERS: int(others), **{site: int(days) for site, days in named.items()}})
