"""A report of goaccess about the requests of an app, from nginx's log files."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import itertools
import re
import subprocess
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ansible_collections.blueoctopus.site.plugins.module_utils.logs import rotated

HEALTH_CHECK = b'"user_agent":"health-check"}'
# Names of nginx's log_format, as goaccess's format for JSON. Times have no zone: they are those of the host.
FORMAT = (
    '{"time":"%dT%t","client":"%h","host":"%v","method":"%m","uri":"%U","protocol":"%H","tls":"%K","status":"%s",'
    '"bytes":"%b","seconds":"%T","referer":"%R","user_agent":"%u"}'
)
# goaccess reads what clients have sent: it has no privileges, no network, and no file of the host that it could write.
SANDBOX = [
    "systemd-run", "--pipe", "--wait", "--collect", "--quiet", "--setenv=LC_ALL=C.UTF-8",
    *(f"--property={setting}" for setting in (
        "DynamicUser=yes", "PrivateNetwork=yes", "PrivateDevices=yes", "ProtectHome=yes", "ProtectProc=invisible",
        "CapabilityBoundingSet=", "RestrictAddressFamilies=AF_UNIX", "SystemCallFilter=@system-service", "UMask=0077",
        "MemoryMax=1G", "TasksMax=16", "RuntimeMaxSec=900", "Nice=10",
    )),
    "--",
]  # fmt: skip


class ReportError(Exception):
    """There is no report."""


def site_lines(folder: Path, site: str, since: float) -> Iterator[bytes]:
    """The requests of a site in nginx's log and its rotated files, the oldest first, without the zone of their times.

    Args:
        folder: nginx's logs.
        site: the app.
        since: seconds since 1970.
    """
    own = re.compile(rb'\{"time":"(([0-9T:-]{19})[0-9:+-]{6})(","site":"%s",.*\}\n)' % re.escape(site.encode()))
    for path in reversed(rotated(folder, "access.log")):
        if path.stat().st_mtime < since:
            continue
        open_log = gzip.open if path.suffix == ".gz" else open
        # A file that is damaged, or removed at this moment, ends early.
        with contextlib.suppress(OSError, EOFError, zlib.error), open_log(path, "rb") as file:
            for line in file:
                found = own.fullmatch(line)
                if found and HEALTH_CHECK not in line and is_since(found[1], since):
                    yield b'{"time":"%s%s' % (found[2], found[3])


def is_since(text: bytes, since: float) -> bool:
    """Whether a time of nginx's log is not before another one, in seconds since 1970."""
    try:
        return datetime.datetime.fromisoformat(text.decode()).timestamp() >= since
    except ValueError:
        return False


def report(title: str, lines: Iterable[bytes], sandbox: Sequence[str] = SANDBOX) -> bytes:
    """The report, a page in HTML that needs no other file.

    Args:
        title: its title.
        lines: the requests.
        sandbox: the command that runs goaccess.

    Raises:
        ReportError: when goaccess fails, or there is no request.
    """
    options = [
        "--output=html",
        f"--log-format={FORMAT}",
        "--date-format=%Y-%m-%d",
        "--time-format=%T",
        "--anonymize-ip",
    ]
    options += ["--no-global-config", "--no-progress", f"--html-report-title={title}"]
    waiting = iter(lines)
    first = next(waiting, None)
    if first is None:
        raise ReportError("nginx's log has no request of the app in this time.")
    with tempfile.TemporaryFile() as page, tempfile.TemporaryFile() as errors:
        command = [*sandbox, "/usr/bin/goaccess", "-", *options]
        with (
            contextlib.suppress(BrokenPipeError),  # goaccess has ended; its error says why
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=page, stderr=errors) as goaccess,
        ):
            if goaccess.stdin:
                goaccess.stdin.writelines(itertools.chain([first], waiting))
        page.seek(0)
        errors.seek(0)
        if goaccess.returncode:
            raise ReportError(f"goaccess has failed: {errors.read().decode(errors='replace').strip()[-2000:]}")
        return page.read()
