"""The control node's part of release_lock: say who takes the lock, and renew it while this run lives."""

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

RENEWED_EVERY = 5.0  # seconds
LOOK_EVERY = 0.5  # seconds between two looks whether this run lives
NOT_OURS = 9  # status of a command that found another run's lock, or none


class ActionModule(ActionBase):
    """Take the lock by the module and keep it; give it back by one short command."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        self.ansible = process_of_run()
        self.begun = identity(self.ansible)
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        if args.get("state") == "free":
            if not self._task.check_mode and args.get("token"):
                self._low_level_execute_command(shell_command(args["name"], args["token"], "free"))
            return result | {"changed": False}
        args["by"] = f"{getpass.getuser()}@{socket.gethostname()}"
        taken: dict[str, Any] = self._execute_module(
            "blueoctopus.site.release_lock", module_args=args, task_vars=task_vars
        )
        if taken.get("token"):
            self.keep(args["name"], taken["token"])
        return taken | {"by": args["by"], "app": args["name"]}

    def keep(self, name: str, token: str) -> None:
        """Renew the lock from a process of its own, which outlives this task and not this run.

        When the run ends without giving the lock back, that process says so to the host, which then goes back to its
        confirmed release at once.
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
        """Renew the lock until it is given back or the run has ended."""
        due = time.monotonic() + RENEWED_EVERY
        while identity(self.ansible) == self.begun != "":
            time.sleep(LOOK_EVERY)
            if time.monotonic() < due:
                continue
            due = time.monotonic() + RENEWED_EVERY
            with contextlib.suppress(Exception):  # the host may be out of reach for a while
                if self._low_level_execute_command(renewal)["rc"] == NOT_OURS:
                    return
        self._low_level_execute_command(end)


def process_of_run() -> int:
    """The process of this run of Ansible, also when it has just ended: multiprocessing starts one for each task."""
    parent = multiprocessing.parent_process()
    return (parent.pid if parent else None) or os.getpid()


def identity(process: int) -> str:
    """What tells a process from a later one of the same number; empty when it has ended."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return "" if fields[0] in "ZX" else fields[19]  # a process that has ended and nobody has waited for; its start
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"
