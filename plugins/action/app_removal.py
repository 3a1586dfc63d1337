"""The action part of app_removal: pass the name of the user, for the history and the lock."""

from __future__ import annotations

import getpass
import socket
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Call the module."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = self._task.args | {"by": f"{getpass.getuser()}@{socket.gethostname()}"}
        return dict(self._execute_module("blueoctopus.site.app_removal", module_args=args, task_vars=task_vars))
