"""Install Debian packages: ask dpkg which ones are missing, and call apt only for these."""

from __future__ import annotations

import shlex
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.blueoctopus.site.plugins.plugin_utils.login import execute


class ActionModule(ActionBase):
    """Install the packages that dpkg does not list as installed."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            {
                "names": {"type": "list", "elements": "str", "required": True},
                "lock_timeout": {"type": "int", "default": 600},
            }
        )
        missing = self.missing(args["names"])
        result |= {"changed": False, "missing": missing}
        if missing and self._task.check_mode:
            return result | {"changed": True, "diff": {"prepared": f"Would install {', '.join(missing)}\n"}}
        if missing:
            # A new image may have an index that is empty, but not old.
            apt = {"name": missing, "install_recommends": False, "update_cache": True, "cache_valid_time": 60}
            apt |= {"lock_timeout": args["lock_timeout"]}
            result |= self._execute_module("ansible.builtin.apt", module_args=apt, task_vars=task_vars)
        return result

    def missing(self, names: list[str]) -> list[str]:
        """The packages that are not installed, and that no installed package provides."""
        command = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}, ${Provides}\\n"]
        _code, shown, _error = execute(self._connection, shlex.join(command))
        installed = [line.removeprefix("installed ") for line in shown.splitlines() if line.startswith("installed ")]
        # A package provides "awk" or "libglib2.0-0 (= 2.84)".
        return sorted(set(names) - {name.partition(" ")[0] for line in installed for name in line.split(", ")})
