"""Log in to a host from action plugins, over the connection of the task."""

from __future__ import annotations

import shlex

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase


def is_remote(connection: ConnectionBase) -> bool:
    """Whether the connection is SSH; a control node may also manage itself with a local connection."""
    return connection.transport == "ssh"


def execute(connection: ConnectionBase, command: str, stdin: str = "") -> tuple[int, str, str]:
    """Run a command as the login user, without sudo."""
    data = stdin.encode() or None
    code, out, err = connection.exec_command(f"sh -c {shlex.quote(command)}", in_data=data, sudoable=False)
    return code, out.decode(errors="replace"), err.decode(errors="replace")


def run_as(connection: ConnectionBase, user: str, port: int, command: str, fresh: bool = False, stdin: str = "") -> str:
    """Log in as a user on a port and run a command; with `fresh`, over a new connection.

    Raises:
        AnsibleConnectionFailure: when the login fails, or, with `fresh`, the command.
    """
    if is_remote(connection):
        connection.set_option("remote_user", user)
        connection.set_option("port", port)
    if fresh and is_remote(connection):
        own = f"-o ControlPath=none -o ControlMaster=no {connection.get_option('ssh_args') or ''}"
        connection.set_option("ssh_args", own)
    code, out, err = execute(connection, command, stdin)
    if code and fresh:
        raise AnsibleConnectionFailure(err.strip() or out.strip() or f"exit code {code}")
    return out
