"""The state of a healthy host with an app, as the module host_status returns it, and changes of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from ansible_collections.blueoctopus.site.plugins.module_utils.checks import find_problems

PROJECT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((PROJECT / "docs/status.schema.json").read_text())  # of the status of all hosts
NOW = 1_767_323_400.0  # 2026-01-02T03:10:00Z
V1, V2 = "20260101T000000Z-00000000aa", "20260102T000000Z-11111111bb"
EVENT = {
    "time": "2026-01-02T00:10:00Z",
    "action": "deploy",
    "release": V1,
    "commit": "0123456789abcdef",
    "result": "ok",
}
REQUESTS = {
    "window_seconds": 300,
    "per_minute": 20.0,
    "errors_per_minute": 0.0,
    "requests": 100,
    "errors": 0,
    "p50_seconds": 0.02,
    "p95_seconds": 0.21,
}
LOST = {"unreachable": True, "msg": "Task failed: ssh: connect to host web2 port 22: No route to host\nmore"}
APP: dict[str, Any] = {
    "name": "shop",
    "in_inventory": True,
    "live": V1,
    "commit": "0123456789abcdef",
    "deployed": "2026-01-02T00:10:00Z",
    "state": "active",
    "restarts": 0,
    "workers": 5,
    "processes": {"mail.1": "active"},
    "died": [],
    "died_recently": [],
    "cause": "",
    "memory_mib": 182,
    "memory_peak_mib": 240,
    "memory_limit_mib": 1024,
    "up_seconds": 10800,
    "certificate": {"method": "acme", "days_left": 61, "is_there": True, "problem": ""},
    "in_maintenance": False,
    "last": {**EVENT, "by": "somebody@laptop", "from": "", "reason": ""},
    "kept": [V1],
    "rolled_back": [],
    "stopped": False,
    "unfinished": False,
    "locked_by": None,
    "failed_end": None,
    "history": [{**EVENT, "by": "somebody@laptop", "from": "", "reason": ""}],
    "requests": REQUESTS,
    "day": None,
    "failed_requests": [],
}
DISK = {"mount": "/", "size_bytes": 10**10, "used_bytes": 4 * 10**9, "free_bytes": 6 * 10**9, "percent": 41}
HOST: dict[str, Any] = {
    "time": NOW,
    "apps": [APP],
    "disks": [{**DISK, "inodes_percent": 7}],
    "failed_units": [],
    "backup": {"last_backup": "2026-01-01T13:10:00Z", "size_bytes": 5, "last_check": None, "last_drill": None},
    "alerts": None,
    "logs": None,
    "replication": None,
    "reboot_needed": False,
    "updates": {"pending": 3, "security": 0},
    "problems": [],
}
HOST["backup"] |= {"problem": "", "problems": []}


def host(*apps: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The state of a host with apps that differ from a healthy one in some keys."""
    found = copy.deepcopy(HOST) | {"apps": [copy.deepcopy(APP) | app for app in apps or ({},)]} | changes
    return found | {"problems": find_problems(found, NOW)}


def backup(*problems: tuple[str, str, str], **changes: Any) -> dict[str, Any]:
    """The backups of a host with problems, each with its app, subject and text."""
    found = [{"app": app, "subject": subject, "text": text} for app, subject, text in problems]
    return HOST["backup"] | {"problems": found, "problem": "; ".join(text for *_, text in problems)} | changes


def replication(role: str = "primary", **changes: Any) -> dict[str, Any]:
    """The replication of a healthy primary or standby, or of a fenced host, with changes."""
    standbys = [{"name": "standby_db2", "state": "streaming", "lag_bytes": 0}] if role == "primary" else []
    found = {"role": role, "standbys": standbys, "lag_seconds": None, "connected": None, "problem": ""}
    return found | ({"lag_seconds": 0.0, "connected": True} if role == "standby" else {}) | changes


def result(*apps: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The result of the module host_status."""
    return {"host": host(*apps, **changes)}
