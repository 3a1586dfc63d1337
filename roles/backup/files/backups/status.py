"""The results of the backups of this host, in status.json, which the status and the playbooks read.

Root, the backup and the drill, which are different users, share its folder, so no one follows a link in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backups.settings import STATE, BackupError

PATIENCE = 3600.0  # seconds to wait for another run


def shared(state: Path) -> Path:
    """The folder that root and the users of the units share."""
    return state / "shared"


class Status:
    """The file status.json.

    `backups` has for each app and target what `back_up` records, `targets` the last check and prune of each target,
    and `drills` the last drill of each app. Times are seconds since 1970.

    Args:
        state: folder of the program.
    """

    def __init__(self, state: Path = STATE) -> None:
        self.folder = shared(state)
        self.path = self.folder / "status.json"

    def read(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError), open(self.path, opener=open_no_link) as file:
            return dict(json.load(file))
        return {"backups": {}, "targets": {}, "drills": {}}

    def record(self, kind: str, *names: str, **values: Any) -> None:
        """Add values to an entry, such as those of `backups` `shop` `store`."""
        with locked(self.folder / "status.lock", 60):
            content = self.read()
            entry = content.setdefault(kind, {})
            for name in names:
                entry = entry.setdefault(name, {})
            entry.update(values)
            beside = self.path.with_suffix(".new")
            beside.unlink(missing_ok=True)
            with os.fdopen(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640), "w") as file:
                json.dump(content, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)


def open_no_link(path: str, flags: int) -> int:
    """Open a file whose folder others can write to: a link is refused, and a pipe does not wait for a writer."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o660)


@contextlib.contextmanager
def locked(path: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold a lock, which ends with this process.

    Raises:
        BackupError: when another process still holds it after some seconds.
    """
    deadline = time.monotonic() + patience
    descriptor = open_no_link(str(path), os.O_CREAT | os.O_RDWR)
    with contextlib.suppress(PermissionError):  # of another user, who has done it
        os.fchmod(descriptor, 0o660)  # whatever the umask was
    with os.fdopen(descriptor, "w") as held:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise BackupError(
                        "Another backup, restore or check of this host is running.\nWait until it ends: "
                        "systemctl list-units 'backup*'"
                    ) from None
                time.sleep(0.2)
        yield
