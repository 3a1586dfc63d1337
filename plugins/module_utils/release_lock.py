"""The lock of an app on one host: one run changes the app at a time.

A run is known by a token of its own. It renews the lock while it lives, so that a lock without renewal is known to
belong to a run that is gone. All of it lies below /run, which root alone can enter and which a reboot empties.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path("/run/releases")
STALE_AFTER = 60.0  # seconds without renewal
WORK_PATIENCE = 120.0  # seconds to wait for the module of a former run that is still at work
ABANDONED = -1000000.0  # a time of renewal that is always too old


def uptime() -> float:
    """Seconds since the host was started, which no change of the clock moves."""
    return float(Path("/proc/uptime").read_text().split()[0])


class LockLost(Exception):
    """The lock is not this run's, or not any more; nothing may be changed."""


class Lock:
    """The lock of one app.

    Args:
        name: name of the app.
        folder: where the locks of all apps are.
    """

    def __init__(self, name: str, folder: Path = FOLDER) -> None:
        self.name = name
        self.folder = folder / name

    @contextlib.contextmanager
    def _held(self, file: str, patience: float) -> Iterator[None]:
        """Hold the kernel's lock on a file, which ends with the process, however that ends.

        Raises:
            LockLost: when another process still holds it after `patience` seconds.
        """
        self.folder.parent.mkdir(mode=0o700, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        deadline = time.monotonic() + patience
        with (self.folder / file).open("w") as held:
            while True:
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise LockLost(
                            "A former run that was cut off is still at work on this host. Run again in a minute."
                        ) from None
                    time.sleep(0.05)
            yield

    def _write(self, file: str, content: str) -> None:
        beside = self.folder / f".{file}.new"
        beside.write_text(content)
        beside.replace(self.folder / file)

    def _read(self, file: str) -> str:
        with contextlib.suppress(OSError):
            return (self.folder / file).read_text().strip()
        return ""

    @property
    def token(self) -> str:
        """The token of the run that has the lock; empty when it is free."""
        return self._read("token")

    @property
    def renewed(self) -> float:
        """When the lock was renewed last, in seconds of the host's uptime, which no change of the clock moves."""
        with contextlib.suppress(ValueError):
            return float(self._read("renewed"))
        return ABANDONED

    @property
    def owner(self) -> dict[str, Any] | None:
        """Who has the lock: `by` and `since` (UTC); None when it is free."""
        if not self.token:
            return None
        with contextlib.suppress(ValueError):
            return dict(json.loads(self._read("owner")))
        return {"by": "an unknown run", "since": ""}

    @property
    def is_stale(self) -> bool:
        """Whether the run that has the lock has not renewed it for too long."""
        return uptime() - self.renewed > STALE_AFTER

    def take(self, token: str, owner: dict[str, Any], force: bool = False) -> bool:
        """Take the lock when it is free, stale, or already this run's.

        Args:
            token: the token of this run.
            owner: who takes it: `by` and `since`.
            force: take it even from a run that lives.

        Returns:
            Whether it is this run's now.
        """
        with self._held("mutex", 5):
            if self.token not in ("", token) and not self.is_stale and not force:
                return False
            self._write("owner", json.dumps(owner))
            self._write("renewed", str(uptime()))
            self._write("token", token)
            return True

    def free(self, token: str) -> None:
        """Give the lock back, if it is this run's."""
        with self._held("mutex", 5):
            if self.token == token:
                for file in ("token", "owner", "renewed"):
                    (self.folder / file).unlink(missing_ok=True)

    def abandon(self, token: str) -> None:
        """Let the lock be stale at once, if it is this run's: the host's guard then acts on it."""
        with self._held("mutex", 5):
            if self.token == token:
                self._write("renewed", str(ABANDONED))

    def check(self, token: str) -> None:
        """Make sure that the lock is this run's.

        Raises:
            LockLost: when it is not.
        """
        if self.token != token:
            by = f" {self.owner['by']} has it now." if self.owner else ""
            raise LockLost(
                f"This run no longer has the lock of {self.name} on this host.{by} Nothing was changed here."
            )

    @contextlib.contextmanager
    def work(self, token: str, patience: float = WORK_PATIENCE) -> Iterator[None]:
        """Change the host: as the only process that does, and only while the lock is this run's.

        Raises:
            LockLost: when the lock is another run's, or a process of a former run is still at work.
        """
        with self._held("work", patience):
            self.check(token)
            yield


def shell_command(name: str, token: str, action: str, folder: Path = FOLDER) -> str:
    """A shell command for the host that acts on the lock if it is still this run's; else it ends with status 9.

    Args:
        name: name of the app.
        token: the token of the run.
        action: `renew`, `abandon` (the run has ended without giving the lock back) or `free`.
        folder: where the locks of all apps are.
    """
    acts = {
        "renew": "cut -d' ' -f1 /proc/uptime > .renewed.new && mv .renewed.new renewed",
        "abandon": f"echo {ABANDONED} > .renewed.new && mv .renewed.new renewed",
        "free": "rm -f token owner renewed",
    }
    script = f'[ "$(cat token 2>/dev/null)" = {shlex.quote(token)} ] || exit 9; {acts[action]}'
    return f"cd {shlex.quote(str(folder / name))} && exec flock mutex sh -c {shlex.quote(script)} || exit 9"


def new_token() -> str:
    """A token that no other run has."""
    return os.urandom(16).hex()
