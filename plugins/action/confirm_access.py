"""Get in the new way, over a connection of its own, and only then keep what was changed about who may get in."""

from __future__ import annotations

import shlex
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.blueoctopus.site.plugins.plugin_utils.login import knock

CONFIRM = "sudo -n /usr/local/sbin/undo-lockout confirm "


class ActionModule(ActionBase):
    """Confirm what the tasks before have changed, if anything. Arguments: user and port to get in with."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        user, port = str(self._task.args["user"]), int(self._task.args["port"])
        token = (task_vars or {}).get("ansible_facts", {}).get("access_waiting")
        if token and not self._task.check_mode:
            self.confirm(user, port, str(token))
        return result | {"changed": False, "ansible_facts": {"access_waiting": ""}}

    def confirm(self, user: str, port: int, token: str) -> None:
        """Tell the host that somebody got in.

        Raises:
            AnsibleActionFail: when nobody did, or too late.
        """
        try:
            knock(self._connection, user, port, CONFIRM + shlex.quote(token), fresh=True)
        except AnsibleConnectionFailure as error:
            raise AnsibleActionFail(
                f"After the changes to users, SSH or the firewall, {user} can't get in at port {port}: {error}\n"
                "The host undoes these changes by itself within a minute, so you can log in as before. Then look at "
                "admin_user, admin_keys, ssh_*, firewall_*, and at firewalls between here and the host."
            ) from None
