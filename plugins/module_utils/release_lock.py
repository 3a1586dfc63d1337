"""The lock of an app on one host: only one run at a time changes the app.

Each run has its own token. It renews the lock while it is alive; a lock that is not renewed belongs to a run that has
died. A process on the host, the guard of a run, then restores the host. The guard of a run that was taken over stays
responsible until the next run has a guard. While it fails, it notes why.

The files are in a folder below /run that only root can enter; a reboot removes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path("/run/releases")
STALE_AFTER = 60.0  # seconds without renewal
RENEWAL_INTERVAL = 10.0  # seconds between two renewals by a module
PAUSE = 0.5  # seconds between two attempts to take the lock
WORK_TIMEOUT = 120.0  # seconds to wait for a module of another run that is still running
ABANDONED = -1000000.0  # a time of renewal that is always too old
STATE = ("token", "owner", "renewed", "guard", "failure")  # the files of a lock, while it is not free
LONGEST_ERROR = 500  # characters


def uptime() -> float:
    """Seconds since the boot of the host; changes of the clock do not affect it."""
    return float(Path("/proc/uptime").read_text().split()[0])


def identity(process: int) -> str:
    """A text that differs between two processes with the same id; empty when the process has ended."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return "" if fields[0] in "ZX" else fields[19]  # the state (zombie or dead); the start time
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"


class LockHeld(Exception):
    """Another run that is alive has the lock."""


class LockLost(Exception):
    """This run does not have the lock, or has lost it, and must not change anything."""


class Lock:
    """The lock of one app.

    Args:
        name: name of the app.
        folder: folder of all locks.
    """

    def __init__(self, name: str, folder: Path = FOLDER) -> None:
        self.name = name
        self.folder = folder / name

    @contextlib.contextmanager
    def _held(self, file: str, patience: float) -> Iterator[None]:
        """Hold a kernel lock on a file. The kernel frees it when the process ends for any reason.

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
                            "A module of an interrupted run is still running on this host. Try again in a minute."
                        ) from None
                    time.sleep(0.05)
            yield

    def _write(self, file: str, content: str) -> None:
        temporary = self.folder / f".{file}.new"
        temporary.write_text(content)
        temporary.replace(self.folder / file)

    def _read(self, file: str) -> str:
        with contextlib.suppress(OSError):
            return (self.folder / file).read_text().strip()
        return ""

    @property
    def token(self) -> str:
        """The token of the run that has the lock; empty when it is free."""
        return self._read("token")

    @property
    def guard(self) -> str:
        """The token of the run whose guard restores the host when the lock is no longer renewed; empty without one."""
        return self._read("guard")

    @property
    def renewed(self) -> float:
        """The time of the last renewal, in seconds of the host's uptime."""
        with contextlib.suppress(ValueError):
            return float(self._read("renewed"))
        return ABANDONED

    @property
    def owner(self) -> dict[str, Any] | None:
        """The owner of the lock: `by` and `since` (UTC); None when it is free."""
        if not self.token:
            return None
        with contextlib.suppress(ValueError):
            return dict(json.loads(self._read("owner")))
        return {"by": "an unknown run", "since": ""}

    @property
    def failure(self) -> dict[str, Any] | None:
        """Why this host can't end an interrupted run: `since` (UTC), `error`, and whether it `tries_again`.

        None when it can, and while another run is alive.
        """
        with contextlib.suppress(ValueError, KeyError, TypeError):
            found = json.loads(self._read("failure"))
            if self.is_stale or self.token == found["token"]:
                process, begun = found["process"]
                tries_again = identity(process) == begun != ""
                return {"since": str(found["since"]), "error": str(found["error"]), "tries_again": tries_again}
        return None

    @property
    def is_stale(self) -> bool:
        """Whether the last renewal is too long ago."""
        return uptime() - self.renewed > STALE_AFTER

    def take(self, token: str, owner: dict[str, Any], force: bool = False) -> bool:
        """Take the lock when it is free, stale, or already this run's.

        Args:
            token: the token of this run.
            owner: the owner to store: `by` and `since`.
            force: take it even from a run that is alive.

        Returns:
            Whether this run has the lock now.
        """
        with self._held("mutex", 5):
            if self.token not in ("", token) and not self.is_stale and not force:
                return False
            self._write("owner", json.dumps(owner))
            self._write("renewed", str(uptime()))
            self._write("token", token)
            return True

    def acquire(self, by: str, force: bool = False, token: str = "") -> str:
        """Take the lock; while it may be the lock of a run that has died, wait until it is stale.

        Args:
            by: user and control node of this run.
            force: take it even from a run that is alive.
            token: the token of this run, if it has had the lock before.

        Returns:
            The token of this run, by default a new one.

        Raises:
            LockHeld: when the other run renews the lock.
        """
        token = token or new_token()
        owner = {"by": by, "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())}
        renewed, deadline = self.renewed, time.monotonic() + STALE_AFTER + 30
        while not self.take(token, owner, force=force):
            other = self.owner
            if other and (self.renewed > renewed or time.monotonic() > deadline):
                raise LockHeld(
                    f"{self.name} has been locked by {other['by']} since {other['since']}. It was not changed. Wait "
                    "until that run has ended. To stop it at its next step and continue with this run, add "
                    "-e take_over_lock=true"
                )
            time.sleep(PAUSE)
        return token

    def adopt(self, token: str) -> bool:
        """Take a stale lock for the guard of this run, if that is responsible; return whether it has the lock now.

        The lock stays stale, so that the next run can take it, which then waits until the guard has ended its work.
        """
        with self._held("mutex", 5):
            # The run may just have freed the lock.
            if is_due := self.is_stale and token in (self.token, self.guard):
                self._write("guard", token)
                self._write("token", token)
            return is_due

    def set_guard(self, token: str) -> None:
        """Make the guard of this run responsible for the host.

        Raises:
            LockLost: when this run has not the lock any more.
        """
        with self._held("mutex", 5):
            self.check(token)
            self._write("guard", token)
            (self.folder / "failure").unlink(missing_ok=True)

    def free(self, token: str) -> None:
        """Free the lock, if this run has it. While an earlier run's guard is responsible, leave the lock to that."""
        with self._held("mutex", 5):
            if self.token != token:
                return
            if self.guard not in ("", token):
                self._write("renewed", str(ABANDONED))
                return
            self._clear()

    def clear(self, token: str) -> None:
        """Free the lock, if this run has it, and end the responsibility of any guard: there is nothing to restore.

        The files that the kernel locks stay, as another run may be waiting for them.
        """
        with self._held("mutex", 5):
            if self.token == token:
                self._clear()

    def _clear(self) -> None:
        for file in STATE:
            (self.folder / file).unlink(missing_ok=True)

    def renew(self, token: str) -> None:
        """Renew the lock, if this run has it and has not abandoned it."""
        with self._held("mutex", 5):
            if self.token == token and self.renewed != ABANDONED:
                self._write("renewed", str(uptime()))

    @contextlib.contextmanager
    def kept(self, token: str) -> Iterator[None]:
        """Renew the lock while the block runs, for a step that may last longer than a lock without renewal."""
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(RENEWAL_INTERVAL):
                with contextlib.suppress(LockLost, OSError):
                    self.renew(token)

        renewal = threading.Thread(target=renew, daemon=True)
        renewal.start()
        try:
            yield
        finally:
            ended.set()
            renewal.join()

    def abandon(self, token: str) -> None:
        """Mark the lock as stale, if this run has it. The host's guard then restores the confirmed release."""
        with self._held("mutex", 5):
            if self.token == token:
                self._write("renewed", str(ABANDONED))

    def fail(self, token: str, error: BaseException) -> None:
        """Note why the guard of a run could not restore this host, if it is responsible, and abandon its lock.

        Args:
            token: the token of the guard's run.
            error: why; it is noted as one line.
        """
        with self._held("mutex", 5):
            if not token or token not in (self.token, self.guard):
                return
            if self.token == token:
                self._write("renewed", str(ABANDONED))
            before: dict[str, Any] = {}
            with contextlib.suppress(ValueError):
                before = json.loads(self._read("failure"))
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            failure = {
                "token": token,
                "since": before.get("since", since),
                "error": (" ".join(str(error).split()) or type(error).__name__)[:LONGEST_ERROR],
                "process": [os.getpid(), identity(os.getpid())],
            }
            self._write("failure", json.dumps(failure))

    def check(self, token: str) -> None:
        """Check that this run has the lock.

        Raises:
            LockLost: when it does not.
        """
        if self.token != token:
            by = f" {self.owner['by']} has it now." if self.owner else ""
            raise LockLost(
                f"This run no longer has the lock of {self.name} on this host.{by} This task changed nothing."
            )

    @contextlib.contextmanager
    def work(self, token: str, patience: float = WORK_TIMEOUT) -> Iterator[None]:
        """Run the block as the only process that changes the app on this host, and only while this run has the lock.

        Raises:
            LockLost: when this run does not have the lock, or a process of another run is still running.
        """
        with self._held("work", patience):
            self.check(token)
            yield


def shell_command(name: str, token: str, action: str, folder: Path = FOLDER) -> str:
    """A shell command for the host that changes the lock if this run has it; otherwise it exits with status 9.

    Args:
        name: name of the app.
        token: the token of the run.
        action: `renew`, `abandon` (the host shall restore the confirmed release and free the lock) or `free`.
        folder: folder of all locks.
    """
    actions = {
        # An abandoned lock stays abandoned.
        "renew": f'[ "$(cat renewed)" != {ABANDONED} ] || exit 9; '
        "cut -d' ' -f1 /proc/uptime > .renewed.new && mv .renewed.new renewed",
        "abandon": f"echo {ABANDONED} > .renewed.new && mv .renewed.new renewed",
        "free": f"rm -f {' '.join(STATE)}",
    }
    script = f'[ "$(cat token 2>/dev/null)" = {shlex.quote(token)} ] || exit 9; {actions[action]}'
    return f"cd {shlex.quote(str(folder / name))} && exec flock mutex sh -c {shlex.quote(script)} || exit 9"


def new_token() -> str:
    """A random token."""
    return os.urandom(16).hex()
