"""Renew the lock of an app on a host from the control node, while the run is alive and between its tasks."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import identity, shell_command

RENEWAL_INTERVAL = 5.0  # seconds
CHECK_INTERVAL = 0.5  # seconds between two checks whether this run is alive
LOCK_LOST = 9  # exit status of a shell command when another run has the lock, or none


class RenewingAction(ActionBase):
    """An action plugin whose task takes the lock of an app, which later tasks of the run need."""

    ansible: int
    begun: str

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        self.ansible = run_process()
        self.begun = identity(self.ansible)
        return dict(super().run(tmp, task_vars))

    def renew_in_background(self, name: str, token: str, end: str = "") -> None:
        """Renew the lock from a separate process, which outlives this task but not this run.

        Args:
            name: name of the app.
            token: the token of the run.
            end: what to do when the run ends without freeing the lock, such as `abandon`, so that the host returns to
                its confirmed release at once. When empty, the lock becomes stale.
        """
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            return
        with contextlib.suppress(BaseException):
            os.setsid()
            if os.fork() == 0:
                nothing = os.open(os.devnull, os.O_RDWR)
                for descriptor in (0, 1, 2):
                    os.dup2(nothing, descriptor)
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_DFL)
                self.renew(shell_command(name, token, "renew"), shell_command(name, token, end) if end else "")
        os._exit(0)

    def renew(self, renewal: str, end: str) -> None:
        """Renew the lock until it is freed or the run has ended."""
        due = time.monotonic() + RENEWAL_INTERVAL
        while identity(self.ansible) == self.begun != "":
            time.sleep(CHECK_INTERVAL)
            if time.monotonic() < due:
                continue
            due = time.monotonic() + RENEWAL_INTERVAL
            with contextlib.suppress(Exception):  # the host may be unreachable for a while
                if self._low_level_execute_command(renewal)["rc"] == LOCK_LOST:
                    return
        if end:
            self._low_level_execute_command(end)


def run_process() -> int:
    """The id of this run's main process, even when that has just ended. Each task has a process of its own."""
    parent = multiprocessing.parent_process()
    return (parent.pid if parent else None) or os.getpid()
