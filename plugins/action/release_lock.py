"""The action part of release_lock: pass the owner's name, and renew the lock while this run is alive."""

from __future__ import annotations

import contextlib
import getpass
import multiprocessing
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import shell_command

RENEWAL_INTERVAL = 5.0  # seconds
CHECK_INTERVAL = 0.5  # seconds between two checks whether this run is alive
LOCK_LOST = 9  # exit status of a shell command when another run has the lock, or none


class ActionModule(ActionBase):
    """Take the lock with the module and renew it; free or abandon it with one shell command."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        self.ansible = run_process()
        self.begun = identity(self.ansible)
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        if end := {"free": "free", "abandoned": "abandon"}.get(args.get("state", "")):
            if not self._task.check_mode and args.get("token"):
                self._low_level_execute_command(shell_command(args["name"], args["token"], end))
            return result | {"changed": False}
        args["by"] = f"{getpass.getuser()}@{socket.gethostname()}"
        taken: dict[str, Any] = self._execute_module(
            "blueoctopus.site.release_lock", module_args=args, task_vars=task_vars
        )
        if taken.get("token"):
            self.renew_in_background(args["name"], taken["token"])
        return taken | {"by": args["by"], "app": args["name"]}

    def renew_in_background(self, name: str, token: str) -> None:
        """Renew the lock from a separate process, which outlives this task but not this run.

        When the run ends without freeing the lock, that process marks the lock as abandoned. The host then returns to
        its confirmed release at once.
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
                self.renew(shell_command(name, token, "renew"), shell_command(name, token, "abandon"))
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
        self._low_level_execute_command(end)


def run_process() -> int:
    """The id of this run's main process, even when that has just ended. Each task has a process of its own."""
    parent = multiprocessing.parent_process()
    return (parent.pid if parent else None) or os.getpid()


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
