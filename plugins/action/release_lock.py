"""The action part of release_lock: pass the owner's name, and renew the lock while this run is alive."""

from __future__ import annotations

import getpass
import socket
from typing import Any

from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import shell_command
from ansible_collections.blueoctopus.site.plugins.plugin_utils.lock_renewal import RenewingAction


class ActionModule(RenewingAction):
    """Take the lock with the module and renew it; free or abandon it with one shell command."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
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
            self.renew_in_background(args["name"], taken["token"], "abandon")
        return taken | {"by": args["by"], "app": args["name"]}
