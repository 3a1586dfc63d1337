"""The confirmation over a new connection, with and without a password for sudo."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.action.confirm_access import ActionModule


class Connection:
    """Records the command and what it reads."""

    transport = "local"

    def exec_command(
        self, command: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        assert not sudoable
        self.command, self.stdin = command, in_data
        return 0, b"", b""


@pytest.mark.parametrize(
    ("password", "sudo", "stdin"), [("", "sudo -n ", None), ("it's secret", "sudo -S -p '", b"it's secret\n")]
)
def test_sudo_reads_a_password_from_its_input(password: str, sudo: str, stdin: bytes | None) -> None:
    connection: Any = Connection()
    action = ActionModule.__new__(ActionModule)
    action._connection = connection
    action._play_context = SimpleNamespace(become_pass=password or None)
    action.confirm("anna", 22, "0123abcd")
    assert connection.stdin == stdin
    assert sudo in connection.command.replace("'\"'\"'", "'")
    assert connection.command.rstrip("'").endswith("/usr/local/sbin/undo-lockout confirm 0123abcd")
    assert "secret" not in connection.command
