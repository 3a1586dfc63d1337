"""The control node's part of release_switch: who we are, and whether whoever holds the lock can still be at work."""

from __future__ import annotations

import getpass
import os
import socket
import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

STALE_AFTER = 3600  # seconds after which the lock of another computer is nobody's any more


def process_of(pid: int) -> str:
    """A process, told apart from a later one with the same number where the system lets us."""
    try:
        return f"{pid}:{Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[19]}"
    except FileNotFoundError:
        return f"{pid}:"


def is_stale(holder: dict[str, Any], own: dict[str, Any]) -> bool:
    """Whether whoever holds a lock can't be at work any more."""
    if holder.get("computer") == own["computer"]:
        pid = str(holder.get("process", "0:")).split(":")[0]
        return not pid.isdigit() or holder.get("process") != process_of(int(pid)) or not alive(int(pid))
    return time.time() - float(holder.get("since", 0)) > STALE_AFTER


def alive(pid: int) -> bool:
    """Whether a process of this computer runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def locked(name: str, holder: dict[str, Any]) -> str:
    """Say who is deploying, since when, from where, and what to do."""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(float(holder.get("since", 0))))
    return (
        f"{name} is being deployed by {holder.get('by')} since {since}. Nothing was changed. Wait for it to end; when "
        "you know that it has died, add -e take_over_lock=true"
    )


class ActionModule(ActionBase):
    """Call the module, and take the lock over from a run that has died."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        return self.under_lock("release_switch", dict(self._task.args), task_vars)

    def under_lock(self, module: str, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Call a module that takes the app's lock for this run of Ansible, or finds that the run has it.

        Raises:
            AnsibleActionFail: when somebody else has the lock and may be at work.
        """
        computer = socket.gethostname()
        args["holder"] = {
            "by": f"{getpass.getuser()}@{computer}",
            "computer": computer,
            "process": process_of(os.getppid()),
            "since": time.time(),
        }
        result: dict[str, Any] = self._execute_module(module, module_args=args, task_vars=task_vars)
        if "locked_by" in result:
            if not is_stale(result["locked_by"], args["holder"]):
                raise AnsibleActionFail(locked(args["name"], result["locked_by"]))
            args["take_over_lock"] = True
            result = self._execute_module(module, module_args=args, task_vars=task_vars)
        return result
