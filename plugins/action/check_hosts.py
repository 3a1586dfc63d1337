"""Stop before anything is changed when a host can't be reached or is not one that the roles are made for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

SUPPORTED = {"debian": ("12", "13")}


def problem_of(
    host: str, hostvars: Mapping[str, Any], reached: Mapping[str, Any], check_mode: bool, untested: bool = False
) -> str | None:
    """What keeps a host from being managed, in one sentence with the way out; None when nothing does."""
    address = hostvars.get("ansible_host", host)
    if reached.get("unreachable"):
        return (
            f"{host} ({address}) can't be reached: {str(reached.get('msg', '')).strip()}\n"
            f"  Is it on, and does 'ssh {hostvars.get('ansible_user', 'root')}@{address}' work? Check ansible_host, "
            "ansible_user and ansible_port, the port up to now where ssh_port was changed. "
            f"To go on without it: --limit '!{host}'"
        )
    if reached.get("failed"):
        return f"{host} ({address}) answers, but can't be looked at: {str(reached.get('msg', '')).strip()}"
    system = reached.get("system", {})
    if system.get("VERSION_ID") not in SUPPORTED.get(system.get("ID", ""), ()) and not untested:
        return (
            f"{host} ({address}) runs {system.get('PRETTY_NAME')}, but Debian 12 or 13 is needed.\n"
            "  Use a machine with Debian 13. To try a relative of Debian all the same: -e untested_system=true"
        )
    if check_mode and not reached.get("python", True):
        return f"{host} ({address}) has no Python yet, so --check can't look at it. A real run of site.yml installs it."
    return None


class ActionModule(ActionBase):
    """Look at what reach_host has found on every host: `hosts`, by name; `untested_system` takes any system."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        hostvars = (task_vars or {})["hostvars"]
        check_mode, untested = self._task.check_mode, boolean(self._task.args.get("untested_system", False))
        hosts = self._task.args["hosts"].items()
        found = (problem_of(host, hostvars[host], reached, check_mode, untested) for host, reached in hosts)
        problems = [problem for problem in found if problem]
        if problems:
            raise AnsibleActionFail("\n\n".join(["Nothing was changed on any host.", *problems]))
        return result | {"changed": False}
