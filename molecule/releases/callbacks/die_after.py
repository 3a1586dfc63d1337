"""Ends the control node without a word after the Nth task of a role, as a power failure would. For the tests."""

from __future__ import annotations

import os
import signal
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: die_after
type: notification
short_description: kill the control node after a task
description: Kills the control node after as many tasks of roles as the environment variable DIE_AFTER says.
"""


class CallbackModule(CallbackBase):
    """Counts the results of roles' tasks."""

    CALLBACK_VERSION = 2.0
    CALLBACK_NAME = "die_after"

    def __init__(self) -> None:
        super().__init__()
        self.left = int(os.environ["DIE_AFTER"])

    def v2_runner_on_ok(self, result: Any) -> None:
        if result.task._role is not None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
