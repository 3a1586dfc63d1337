#!/usr/bin/python
"""Reload HAProxy, and make sure that it uses its new configuration."""

from __future__ import annotations

DOCUMENTATION = r"""
module: haproxy_reload
short_description: Reload HAProxy, and wait until it has loaded its configuration
description:
  - Reloads the service, or starts it. Fails if HAProxy continues with its previous configuration, such as when it can't
    listen on an address. C(systemctl reload) succeeds in that case.
options:
  state:
    description: V(reloaded) always reloads. V(loaded) reloads only if the last reload has failed.
    type: str
    choices: [reloaded, loaded]
    default: reloaded
  socket:
    description: The socket of HAProxy's master process.
    type: path
    default: /run/haproxy-master.sock
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
notes:
  - Needs root on the balancer.
"""

EXAMPLES = r"""
- name: Reload HAProxy
  blueoctopus.site.haproxy_reload:
"""

RETURN = r""" # """

import re
import socket
import time

from ansible.module_utils.basic import AnsibleModule

PATIENCE = 60.0  # seconds for a reload
PAUSE = 0.2  # seconds between two questions
TIMEOUT = 2.0  # seconds for an answer; a master process that is just reloading gives none
LINES = 3  # of HAProxy's errors


def reloads(path: str) -> tuple[int, int]:
    """The reloads of HAProxy since its start, and how many of them have failed since the last one that has succeeded.

    Raises:
        OSError: when HAProxy does not run, or is just loading its configuration.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(path)
        connection.sendall(b"show proc\n")
        connection.shutdown(socket.SHUT_WR)  # otherwise the master process waits for another command
        shown = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    found = re.search(r"^\d+ +master +(\d+) +\[failed: (\d+)\]", shown, re.MULTILINE)
    if not found:
        raise OSError(f"unexpected answer to show proc: {shown}")
    return int(found[1]), int(found[2])


def wait_for_reload(path: str, before: int) -> int:
    """Wait until there are more reloads than before; return how many have failed since the last one that has succeeded.

    Raises:
        OSError: when that takes too long.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            total, failed = reloads(path)
            if total > before:
                return failed
            problem = OSError(f"no reload within {PATIENCE:g} s")
        except OSError as error:
            problem = error
        if time.monotonic() > deadline:
            raise problem
        time.sleep(PAUSE)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["reloaded", "loaded"], "default": "reloaded"},
            "socket": {"type": "path", "default": "/run/haproxy-master.sock"},
        },
        supports_check_mode=True,
    )
    path, began = module.params["socket"], time.time()
    try:
        total, failed = reloads(path)
    except OSError:
        total, failed = -1, 0  # a start
    is_due = module.params["state"] == "reloaded" or failed > 0
    if module.check_mode or not is_due:
        module.exit_json(changed=is_due)
    code, _, error = module.run_command(["systemctl", "reload-or-restart", "haproxy"])
    if code:
        module.fail_json(msg=f"HAProxy could not be reloaded: {error.strip()}\nsudo journalctl -u haproxy shows why.")
    try:
        failed = wait_for_reload(path, total)
    except OSError as problem:
        module.fail_json(msg=f"HAProxy does not say whether it has reloaded: {problem}")
    if failed:
        command = ["journalctl", "--unit=haproxy", "--output=cat", f"--since=@{int(began)}"]
        alerts = [line for line in module.run_command(command)[1].splitlines() if "[ALERT]" in line]
        reason = "\n".join(dict.fromkeys(alerts[-LINES:])) or "sudo journalctl -u haproxy shows why."
        module.fail_json(
            msg=f"HAProxy can't use its new configuration, and continues with the previous one:\n{reason}\n"
            "Correct the cause and run this again."
        )
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
