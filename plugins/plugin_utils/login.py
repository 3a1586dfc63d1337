"""How action plugins log in to a host, by the connection that Ansible has given them."""

from __future__ import annotations

import shlex

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase


def is_remote(connection: ConnectionBase) -> bool:
    """Whether one has to log in at all: a machine may also set itself up."""
    return connection.transport == "ssh"


def execute(connection: ConnectionBase, command: str) -> tuple[int, str, str]:
    """Run a command as the user who logged in."""
    code, out, err = connection.exec_command(f"sh -c {shlex.quote(command)}", sudoable=False)
    return code, out.decode(errors="replace"), err.decode(errors="replace")


def run_as(connection: ConnectionBase, user: str, port: int, command: str, fresh: bool = False) -> str:
    """Run a command by a certain login; over a connection of its own, if it has to be fresh.

    Raises:
        AnsibleConnectionFailure: when that login does not work, or the command fails.
    """
    if is_remote(connection):
        connection.set_option("remote_user", user)
        connection.set_option("port", port)
    if fresh and is_remote(connection):
        own = f"-o ControlPath=none -o ControlMaster=no {connection.get_option('ssh_args') or ''}"
        connection.set_option("ssh_args", own)
    code, out, err = execute(connection, command)
    if code and fresh:
        raise AnsibleConnectionFailure(err.strip() or out.strip() or f"exit code {code}")
    return out
