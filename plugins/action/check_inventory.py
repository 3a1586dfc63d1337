"""Validate the whole inventory on the control node, before any host is changed.

One error lists all problems: where each is, the value found, the value expected, and an example.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.release import __version__ as ansible_version
from ansible.template import Templar

if TYPE_CHECKING:
    from ansible_collections.blueoctopus.site.plugins.plugin_utils.validation import Problem

OLDEST_ANSIBLE = (2, 19)
SETUP = "Run script/bootstrap, then: source .venv/bin/activate"


class ActionModule(ActionBase):
    """Validate the variables of every host of the play."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        variables, args = task_vars or {}, self._task.args
        self.check_ansible()
        try:
            from ansible_collections.blueoctopus.site.plugins.plugin_utils import (
                balancers,
                databases,
                environments,
                evaluation,
                inventory,
                logs,
                monitoring,
            )
        except ImportError as error:
            raise AnsibleActionFail(
                f"The Python package {error.name} is not installed on the control node. {SETUP}. No host was changed."
            ) from error
        hostvars, groups, hosts = variables["hostvars"], variables["groups"], variables["ansible_play_hosts_all"]

        def explain(host: str, name: str, error: AnsibleError) -> list[Problem]:
            unevaluated = hostvars.raw_get(host)
            templar = Templar(loader=self._loader, variables=unevaluated)
            return evaluation.explain(name, unevaluated[name], templar.template, error)

        problems = inventory.check_hosts(
            {host: hostvars[host] for host in hosts},
            explain,
            app=args.get("app"),
            app_required=args.get("app_required", False),
            app_known=args.get("app_known", True),
            keys=args.get("keys"),
            options=args.get("options") or {},
            without_apps=set(hosts) - set(groups.get("webservers", [])),
        )
        if not problems and args.get("keys") is None:
            found = [
                *databases.find_database_problems(hosts, hostvars, groups),
                *monitoring.find_monitor_problems(hosts, hostvars, groups),
                *logs.find_log_problems(hosts, hostvars),
                *balancers.find_balancer_problems(hostvars, groups),
                *environments.find_environment_problems(
                    hosts, hostvars, variables.get("ansible_inventory_sources", []), self._loader.load_from_file
                ),
            ]
            for host, problem in found:
                problems.setdefault(problem, []).append(host)
        if problems:
            raise AnsibleActionFail(inventory.report(problems))
        return result | {"changed": False}

    @staticmethod
    def check_ansible() -> None:
        """Refuse an ansible-core that is older than the tested ones: it may behave differently."""
        version = tuple(int(n) for n in re.findall(r"\d+", ansible_version)[:2])
        if version < OLDEST_ANSIBLE:
            required = ".".join(map(str, OLDEST_ANSIBLE))
            raise AnsibleActionFail(
                f"This is ansible-core {ansible_version}, but {required} or newer is required. {SETUP}. "
                "No host was changed."
            )
