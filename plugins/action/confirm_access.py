"""Verify the new login over a separate connection, and confirm the changes to users, SSH and the firewall."""

from __future__ import annotations

import shlex
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.blueoctopus.site.plugins.plugin_utils.login import run_as

CONFIRM = "/usr/local/sbin/undo-lockout confirm"


class ActionModule(ActionBase):
    """Confirm the changes of earlier tasks, if there are any. Arguments: user and port of the login, token."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        user, port, token = str(self._task.args["user"]), int(self._task.args["port"]), str(self._task.args["token"])
        if token and not self._task.check_mode:
            self.confirm(user, port, token)
        return result | {"changed": False}

    def confirm(self, user: str, port: int, token: str) -> None:
        """Log in and confirm the changes on the host.

        Raises:
            AnsibleActionFail: when the login fails, or when the host has already undone the changes.
        """
        password = self.get_become_option("become_pass")
        # From its input: the arguments of a command are visible to all users of the host.
        sudo = "sudo -S -p ''" if password else "sudo -n"
        command, stdin = f"{sudo} {CONFIRM} {shlex.quote(token)}", f"{password}\n" if password else ""
        try:
            run_as(self._connection, user, port, command, fresh=True, stdin=stdin)
        except AnsibleConnectionFailure as error:
            raise AnsibleActionFail(
                f"After the changes to users, SSH or the firewall, {user} can't log in on port {port}: {error}\n"
                "The host undoes these changes automatically within a minute, so you can log in as before. Then check "
                "admin_user, admin_keys, ssh_*, firewall_*, the password for sudo, and any firewall between the "
                "control node and the host."
            ) from None
