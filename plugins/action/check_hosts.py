"""Stop before any change when a host can't be reached, runs no supported system, or has an account of an app's name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import account_problem
from ansible_collections.blueoctopus.site.plugins.module_utils.removal import APPS
from ansible_collections.blueoctopus.site.plugins.plugin_utils.balancers import apps_only_on

SUPPORTED = {"debian": ("12", "13")}
ANSIBLE_PREFIX = "Task failed: "  # put before the message of an exception by ansible-core


def find_problem(
    host: str,
    hostvars: Mapping[str, Any],
    reached: Mapping[str, Any],
    check_mode: bool,
    untested: bool = False,
    can_be_skipped: bool = False,
) -> str | None:
    """Why a host can't be managed, and what to do about it; None when it can."""
    address = hostvars.get("ansible_host", host)
    option = "-e skip_unreachable=true" if can_be_skipped else f"--limit '!{host}'"
    reason = str(reached.get("msg", "")).strip().removeprefix(ANSIBLE_PREFIX)
    if reached.get("unreachable"):
        return (
            f"{host} ({address}) can't be reached: {reason}\n"
            f"  Is it running, and does 'ssh {hostvars.get('ansible_user', 'root')}@{address}' work? "
            "Check ansible_host, ansible_user and ansible_port. If you have just changed ssh_port, set ansible_port to "
            "the previous port. "
            f"To continue without this host: {option}"
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


def find_left_out(
    reached: Mapping[str, Mapping[str, Any]],
    webservers: Collection[str],
    balancers: Collection[str],
    hostvars: Mapping[str, Mapping[str, Any]],
) -> tuple[list[str], str]:
    """The webservers that can't be reached, if a run can go on without them; else, why it can't.

    Args:
        reached: the results of reach_host, by the names of the hosts.
        webservers: those of the inventory; none when the playbook can't go on without one.
        balancers: those of the inventory.
        hostvars: the variables of all hosts.
    """
    lost = [host for host in webservers if reached.get(host, {}).get("unreachable")]
    missing = [host for host in balancers if reached.get(host, {"unreachable": True}).get("unreachable")]
    if not lost:
        return [], ""
    if not balancers:
        return [], "skip_unreachable needs balancers, which keep requests away from the host until it is deployed to."
    if missing:
        return [], (
            "skip_unreachable needs all balancers, which keep requests away from the host until it is deployed to. "
            f"This run does not reach {', '.join(missing)}."
        )
    if all(host in lost for host in webservers if host in reached):
        return [], "skip_unreachable needs a webserver that can be reached."
    if alone := apps_only_on(lost, hostvars, {"webservers": webservers}):
        return [], (
            f"skip_unreachable would take down {', '.join(alone)}, which no other webserver has than "
            f"{', '.join(lost)}: the balancers would send it no requests. To leave it as it is: --limit '!{lost[0]}'"
        )
    return lost, ""


class ActionModule(ActionBase):
    """Check the results of reach_host: `hosts`, by name; `untested_system` accepts any system."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        hostvars = (task_vars or {})["hostvars"]
        check_mode, untested = self._task.check_mode, boolean(self._task.args.get("untested_system", False))
        args = self._task.args
        hosts, webservers, balancers = args["hosts"], args.get("webservers", []), args.get("balancers", [])
        skips = boolean(args.get("skip_unreachable", False))
        left_out, reason = find_left_out(hosts, webservers, balancers, hostvars) if skips else ([], "")
        found = [
            find_problem(host, hostvars[host], reached, check_mode, untested, bool(balancers) and host in webservers)
            for host, reached in hosts.items()
            if host not in left_out
        ]
        problems = [problem for problem in [*found, reason] if problem]
        if problems:
            raise AnsibleActionFail("\n\n".join(["No host was changed.", *problems]))
        return result | {"changed": False, "left_out": left_out}
