"""Stop before any change when a host can't be reached, runs no supported system, or has an account of an app's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import account_problem
from ansible_collections.blueoctopus.site.plugins.module_utils.removal import APPS

SUPPORTED = {"debian": ("12", "13")}
ANSIBLE_PREFIX = "Task failed: "  # put before the message of an exception by ansible-core


def find_problem(
    host: str, hostvars: Mapping[str, Any], reached: Mapping[str, Any], check_mode: bool, untested: bool = False
) -> str | None:
    """Why a host can't be managed, and what to do about it; None when it can."""
    address = hostvars.get("ansible_host", host)
    reason = str(reached.get("msg", "")).strip().removeprefix(ANSIBLE_PREFIX)
    if reached.get("unreachable"):
        return (
            f"{host} ({address}) can't be reached: {reason}\n"
            f"  Is it running, and does 'ssh {hostvars.get('ansible_user', 'root')}@{address}' work? "
            "Check ansible_host, ansible_user and ansible_port. If you have just changed ssh_port, set ansible_port to "
            "the previous port. "
            f"To continue without this host: --limit '!{host}'"
        )
    if reached.get("failed"):
        return f"{host} ({address}) accepts the login, but can't be checked: {reason}"
    system = reached.get("system", {})
    if system.get("VERSION_ID") not in SUPPORTED.get(system.get("ID", ""), ()) and not untested:
        return (
            f"{host} ({address}) runs {system.get('PRETTY_NAME')}, but Debian 12 or 13 is required.\n"
            "  Use a host with Debian 13. To try a distribution based on Debian anyway: -e untested_system=true"
        )
    for name, home in reached.get("accounts", {}).items():
        if problem := account_problem(name, home, APPS / name):
            return f"{host} ({address}) can't run the app {name}: {problem}.\n  Give the app another name."
    if check_mode and not reached.get("python", True):
        return f"{host} ({address}) has no Python yet, so --check can't check it. Run site.yml without --check first."
    return None


class ActionModule(ActionBase):
    """Check the results of reach_host: `hosts`, by name; `untested_system` accepts any system."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        hostvars = (task_vars or {})["hostvars"]
        check_mode, untested = self._task.check_mode, boolean(self._task.args.get("untested_system", False))
        hosts = self._task.args["hosts"].items()
        found = (find_problem(host, hostvars[host], reached, check_mode, untested) for host, reached in hosts)
        problems = [problem for problem in found if problem]
        if problems:
            raise AnsibleActionFail("\n\n".join(["No host was changed.", *problems]))
        return result | {"changed": False}
