"""The action part of backup_restore: renew the lock of the app between the steps, while this run is alive."""

from __future__ import annotations

from typing import Any

from ansible_collections.blueoctopus.site.plugins.plugin_utils.lock_renewal import RenewingAction


class ActionModule(RenewingAction):
    """Take the step with the module. From `prepare` on, renew the lock until the restore ends.

    Between two steps, a host waits for the others, which may restore more data.
    """

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = dict(self._task.args)
        result: dict[str, Any] = self._execute_module(
            "blueoctopus.site.backup_restore", module_args=args, task_vars=task_vars
        )
        stamp = (result.get("plan") or {}).get("stamp")
        if args.get("step") == "prepare" and not args.get("as_name") and stamp and not result.get("failed"):
            self.renew_in_background(args["name"], f"restore-{stamp}")
        return result
