"""The action part of release_build: send the packed source to the hosts that do not have the release yet."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.action import ActionBase

# Bytes. Sending a smaller archive takes less time than asking the host first whether it needs it.
SMALL_ARCHIVE = 1_000_000


class ActionModule(ActionBase):
    """Call the module. Send a large archive only when a first call has shown that the host needs it."""

    TRANSFERS_FILES = True
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        source = dict(self._task.args["source"])
        args = source.pop("settings", {}) | self._task.args | {"source": source}
        archive = source["archive"]
        # As one string: Ansible masks each secret in all output, and a secret "1" would mask every 1.
        for name in ("secrets", "build_secrets", "basic_auth"):
            args[name] = json.dumps(args[name]) if args.get(name) else ""
        if self._task.check_mode or os.path.getsize(archive) > SMALL_ARCHIVE:
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
