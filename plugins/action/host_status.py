"""The action part of host_status: when the control node has asked the host, and when it had the answer."""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Call the module. Each host has times of its own, as Ansible asks many hosts one after the other."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        asked = time.time()
        measured = self._execute_module("blueoctopus.site.host_status", task_vars=task_vars)
        return result | measured | {"asked": asked, "answered": time.time()}
