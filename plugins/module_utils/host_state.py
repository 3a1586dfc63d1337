"""The state of a host: disks, updates, failed units, the last backup, alerts that could not be sent."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible_collections.blueoctopus.site.plugins.module_utils.backup_status import summary
from ansible_collections.blueoctopus.site.plugins.module_utils.files import read_untrusted, write
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import systemctl

DATA = ("/var/lib/postgresql", "/var/lib/prometheus")  # a file system of their own is usual
MOUNTS = ("/", "/var", "/var/log", "/var/lib", *DATA, "/srv", "/tmp")  # noqa: S108
BACKUP = Path("/var/lib/backup/shared/status.json")
# The second one survives a reboot; the first one, in memory, a full disk.
ALERTS = (Path("/run/alert/state.json"), Path("/var/lib/alert/state.json"))
REBOOT = (Path("/run/reboot-required"), Path("/var/run/reboot-required"))
APT_TIMEOUT = 5  # seconds
UPDATES = Path("/run/pending-updates.json")  # only root can write it
APT_FILES = (
    Path("/var/lib/apt/lists"),
    Path("/var/lib/apt/extended_states"),
    Path("/var/lib/dpkg/status"),
    Path("/etc/apt/apt.conf"),
    Path("/etc/apt/apt.conf.d"),
    Path("/etc/apt/preferences"),
    Path("/etc/apt/preferences.d"),
    Path("/etc/apt/sources.list"),
    Path("/etc/apt/sources.list.d"),
)


def read_json(path: Path) -> dict[str, Any] | None:
    """A file with a JSON object; None when it does not exist, can't be read or holds something else."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(read_untrusted(path))
        return found if isinstance(found, dict) else None
    return None


def disks(mounts: tuple[str, ...] = MOUNTS) -> list[dict[str, Any]]:
    """The file systems that the host and its apps write to, the fullest first."""
    found: dict[int, dict[str, Any]] = {}
    for mount in mounts:
        with contextlib.suppress(OSError):
            device, about = os.stat(mount).st_dev, os.statvfs(mount)
            if device in found or not about.f_blocks:
                continue
            # As df: the space that is reserved for root does not count.
            used = about.f_blocks - about.f_bfree
            inodes = about.f_files - about.f_ffree
            found[device] = {
                "mount": mount,
                "size_bytes": about.f_blocks * about.f_frsize,
                "used_bytes": used * about.f_frsize,
                "free_bytes": about.f_bavail * about.f_frsize,
                "percent": -(-100 * used // max(1, used + about.f_bavail)),
                "inodes_percent": -(-100 * inodes // about.f_files) if about.f_files else 0,
            }
    return sorted(found.values(), key=lambda disk: -max(disk["percent"], disk["inodes_percent"]))


def failed_units() -> list[str]:
    """The failed units of the host."""
    shown = systemctl("list-units", "--state=failed", "--plain", "--no-legend", "--full")
    return [line.split()[0] for line in shown.splitlines() if line.split()]


def apt_state(paths: tuple[Path, ...]) -> dict[str, int]:
    """When files, and folders with their files, changed: in nanoseconds since 1970, by path."""
    files = [file for path in paths if path.exists() for file in (path, *(path.iterdir() if path.is_dir() else ()))]
    return {str(file): file.stat().st_mtime_ns for file in files if file.exists()}


class Updates:
    """Counts the pending updates, while other things are measured: apt needs up to a second of processor time.

    The result is kept until apt's lists, packages or settings change.
    """

    def __init__(self) -> None:
        command = ["apt-get", "--simulate", "--quiet", "--quiet", "dist-upgrade"]
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        kept, self.state = read_json(UPDATES) or {}, apt_state(APT_FILES)
        self.known: dict[str, int] | None = kept.get("updates") if kept.get("state") == self.state else None
        self.apt: subprocess.Popen[str] | None = None
        if self.known is None:
            with contextlib.suppress(OSError):
                self.apt = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
                )

    def count(self) -> dict[str, int] | None:
        """The number of pending updates, and of those that fix security; None if apt does not tell."""
        if not self.apt:
            return self.known
        try:
            shown, _ = self.apt.communicate(timeout=APT_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.apt.kill()
            self.apt.wait()
            return None
        lines = [line for line in shown.splitlines() if line.startswith("Inst ")]
        if self.apt.returncode:
            return None
        found = {"pending": len(lines), "security": sum("-Security" in line or "-security" in line for line in lines)}
        with contextlib.suppress(OSError):
            write(UPDATES, json.dumps({"state": self.state, "updates": found}), 0o600)
        return found


def describe_backup(path: Path = BACKUP) -> dict[str, Any] | None:
    """The results of the last backup; None on a host without backups."""
    found = read_json(path)
    if found is None:
        with contextlib.suppress(PermissionError):  # of the folder, which belongs to the role backup
            if path.exists():
                text = f"{path} can't be read"
                problems = [{"app": "", "subject": "status", "text": text}]
                return {"last_backup": "", "problem": text, "problems": problems}
        return None
    return summary(found, time.time())


def read_alerts(paths: tuple[Path, ...] = ALERTS) -> dict[str, Any] | None:
    """The state of the alerts after their last check; None when there was none."""
    found = [state for path in paths if (state := read_json(path))]
    return max(found, key=lambda state: str(state.get("checked", "")), default=None)


def is_sample(found: Any) -> bool:
    """Whether an entry has the form of a sample: a time, and numbers by the names of apps and of disks."""
    if not isinstance(found, dict) or not isinstance(found.get("time"), int):
        return False
    parts = [found.get(part) for part in ("memory", "disks")]
    return all(isinstance(part, dict) and all(isinstance(v, int) for v in part.values()) for part in parts)


def describe_alerts(paths: tuple[Path, ...] = ALERTS) -> dict[str, Any] | None:
    """Whether alerts can be sent; None on a host without them. A user without rights has written these files."""
    found = read_alerts(paths)
    if found is None:
        return None
    delivery, samples = found.get("delivery"), found.get("samples")
    return {
        "checked": str(found.get("checked", "")),
        "delivery": {key: str(value) for key, value in delivery.items()} if isinstance(delivery, dict) else {},
        "samples": [sample for sample in samples if is_sample(sample)] if isinstance(samples, list) else [],
    }


def needs_reboot() -> bool:
    """Whether an update needs a reboot."""
    return any(path.exists() for path in REBOOT)
