"""The control node's part of release_build: send the packed source, and only where the host does not have it yet."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.action import ActionBase

# Bytes of packed source up to which asking the host first, whether it needs them, takes longer than sending them.
SENT_AT_ONCE = 1_000_000


class ActionModule(ActionBase):
    """Call the module; a second time, with the archive, where the host needs a large one."""

    TRANSFERS_FILES = True
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = dict(self._task.args)
        archive = args["source"]["archive"]
        # As one text: Ansible hides a secret wherever it shows up, and one that is "1" would show up everywhere.
        args["secrets"] = json.dumps(args["secrets"]) if args.get("secrets") else ""
        if self._task.check_mode or os.path.getsize(archive) > SENT_AT_ONCE:
            result: dict[str, Any] = self._execute_module(
                "blueoctopus.site.release_build", module_args=args, task_vars=task_vars
            )
            if self._task.check_mode or not result.get("archive_needed"):
                return result
        remote = f"{self._make_tmp_path()}source.tar.gz"
        self._transfer_file(archive, remote)
        try:
            args["archive"] = remote
            return dict(self._execute_module("blueoctopus.site.release_build", module_args=args, task_vars=task_vars))
        finally:
            self._remove_tmp_path(os.path.dirname(remote))
