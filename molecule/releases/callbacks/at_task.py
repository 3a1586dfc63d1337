"""Run a command on the control node when a given task begins. For the tests."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: at_task
type: notification
short_description: run a command when a task begins
description:
  - Runs the command of the environment variable AT_TASK_RUN when the task that AT_TASK names begins.
  - The value KILL kills ansible-playbook instead.
"""


class CallbackModule(CallbackBase):
    """Compare the name of each task with AT_TASK."""

    CALLBACK_VERSION = 2.0
    CALLBACK_NAME = "at_task"

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002
        if task.get_name().rpartition(" : ")[2] == os.environ["AT_TASK"]:
            if os.environ["AT_TASK_RUN"] == "KILL":
                os.kill(os.getpid(), 9)
            subprocess.run(os.environ["AT_TASK_RUN"], shell=True, check=True)
