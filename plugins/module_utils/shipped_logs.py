"""Whether the logs of a host are sent: the service of the role logs, its queue, what rsyslog reports. Needs no root."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible_collections.blueoctopus.site.plugins.module_utils.app_status import (
    RECENT,
    seconds_up,
    show_units,
    state_of,
)

UNIT = "logs-ship.service"
QUEUE = Path("/var/lib/logs/queue")
CONFIG = Path("/etc/logs/ship.conf")
# What rsyslog reports when sending stops and begins, and what is no reason.
STATE = r"action 'ship' (suspended|resumed)|\] start"
NO_REASON = "warning: |suspend|resumed|^invalid cert info|no working target"
SPACE = re.compile(r'queue\.maxDiskSpace="(\d+)([mg])"')


def log_entries(*options: str) -> list[tuple[float, str]]:
    """Times and texts of what the service reports, the newest first."""
    command = ["journalctl", "--unit", UNIT, "--reverse", "--output=json", "--quiet", "--no-pager", *options]
    shown = subprocess.run(command, capture_output=True, text=True).stdout
    entries = [json.loads(line) for line in shown.splitlines()]
    return [(int(one["__REALTIME_TIMESTAMP"]) / 1e6, str(one.get("MESSAGE"))) for one in entries]


def failures(most: int) -> list[tuple[float, str]]:
    """The attempts to send since the last one that succeeded, the newest first; rsyslog reports each."""
    states = log_entries(f"--lines={most}", f"--grep={STATE}")
    return list(itertools.takewhile(lambda state: "suspended" in state[1], states))


def queue_size(queue: Path) -> int:
    """Bytes of lines on the disk. rsyslog removes files meanwhile."""
    size = 0
    for path in queue.iterdir():
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


def queue_space(config: Path) -> int:
    """Bytes that the queue may take; 0 if that is unknown."""
    with contextlib.suppress(OSError):
        if found := SPACE.search(config.read_text()):
            return int(found[1]) << (20 if found[2] == "m" else 30)
    return 0


def describe_logs(queue: Path = QUEUE, config: Path = CONFIG) -> dict[str, Any] | None:
    """Whether the logs of the host are sent; None on a host that ships none."""
    try:
        waiting = queue_size(queue)
    except OSError:
        return None
    (unit,) = show_units([UNIT]) or [{}]
    has_died = int(unit.get("NRestarts") or 0) > 0 and seconds_up(unit) < RECENT
    found: dict[str, Any] = {
        "state": state_of(unit),
        "has_died": has_died,
        "waiting_since": "",
        "error": "",
        "waiting_bytes": waiting,
        "space_bytes": queue_space(config),
    }
    # While lines are sent, the newest entry is enough.
    if failures(1):
        others = [text for _, text in log_entries("--lines=30") if not re.search(NO_REASON, text)]
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(failures(5000)[-1][0]))
        # Parts of it may come from the receiver.
        reason = re.sub(r"[^ -~]", "?", others[0].partition(" [v8")[0]) if others else "see journalctl -u logs-ship"
        found |= {"waiting_since": since, "error": reason}
    return found
