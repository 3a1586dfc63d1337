"""Reach a host and learn which system it runs. Takes a tenth of gathering facts, and no Python on the host."""

from __future__ import annotations

import shlex
from typing import Any

from ansible.plugins.action import ActionBase


def parse(os_release: str) -> dict[str, str]:
    """The settings of an os-release file, see os-release(5)."""
    pairs = (line.split("=", 1) for line in os_release.splitlines() if "=" in line and not line.startswith("#"))
    return {key: " ".join(shlex.split(value)) for key, value in pairs}


class ActionModule(ActionBase):
    """Read the host's /etc/os-release."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        done = self._low_level_execute_command("cat /etc/os-release", sudoable=False)
        if done["rc"]:
            return result | {"failed": True, "msg": done["stderr"] or done["stdout"]}
        system = parse(done["stdout"])
        # By the names that gathered facts would have.
        facts = {
            "distribution": system.get("ID", "").capitalize(),
            "distribution_major_version": system.get("VERSION_ID", "").split(".")[0],
        }
        return result | {"changed": False, "system": system, "ansible_facts": facts}
