"""Kill ansible-playbook after the Nth task of a role, like a power failure of the control node. For the tests."""

from __future__ import annotations

import os
import signal
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: die_after
type: notification
short_description: kill the control node after a task
description: Kills ansible-playbook when DIE_AFTER tasks of roles have succeeded; DIE_AFTER is an environment variable.
"""


class CallbackModule(CallbackBase):
    """Count the results of the tasks of roles."""

    CALLBACK_VERSION = 2.0
    CALLBACK_NAME = "die_after"

    def __init__(self) -> None:
        super().__init__()
        self.left = int(os.environ.get("DIE_AFTER", "0"))  # Ansible loads this also for runs that do not enable it

    def v2_runner_on_ok(self, result: Any) -> None:
        if result.task._role is not None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
