#!/usr/bin/python
"""Make the firewall let in what the inventory says, and nothing else."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ufw_policy
short_description: Let in exactly the given connections
description:
  - Brings UFW to a stated policy in one step - connections from outside are denied but for the given ones, those to the
    outside are allowed, and the firewall is on, now and after a reboot.
  - Rules that are not given are removed. What is given is allowed before anything is denied or removed.
  - Rules that would let nobody in to sshd are refused. A change undoes itself after a minute unless
    M(blueoctopus.site.confirm_access) gets in.
  - A host that complies already is only looked at - UFW is not reloaded.
options:
  allow:
    description: The connections to let in, IPv4 and IPv6 alike.
    type: list
    elements: dict
    required: true
    suboptions:
      port:
        description: Port, or a range written C(FIRST:LAST).
        type: str
        required: true
      proto:
        description: Protocol.
        type: str
        choices: [tcp, udp]
        default: tcp
      from:
        description: Address or network that may connect; anybody when left out.
        type: str
      limit:
        description: Refuse a client that comes more than six times in half a minute.
        type: bool
        default: false
      comment:
        description: Shown beside the rule by C(ufw status).
        type: str
        default: ""
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Let in SSH and the web, and the monitor to its agent
  blueoctopus.site.ufw_policy:
    allow:
      - {port: 22, comment: SSH, limit: true}
      - {port: 80, comment: web}
      - {port: 9100, from: 10.0.0.5, comment: monitor}
"""

RETURN = r"""
rules:
  description: The rules as UFW writes them.
  returned: success
  type: list
  elements: str
  sample: ["allow 22/tcp comment 'SSH'"]
"""

import ipaddress
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.lockout import arm, restart_undo_timer

POLICIES = {
    "incoming": ("DEFAULT_INPUT_POLICY", "DROP", "deny"),
    "outgoing": ("DEFAULT_OUTPUT_POLICY", "ACCEPT", "allow"),
}


def ufw_rule(item: dict[str, Any]) -> str:
    """Write one item of O(allow) the way `ufw show added` does.

    Raises:
        ValueError: saying which value is not what it should be.
    """
    port, proto, source, comment = item["port"], item["proto"], item["from"], item["comment"]
    numbers = [int(n) for n in port.split(":")] if re.fullmatch(r"\d{1,5}(:\d{1,5})?", port) else [0]
    if not all(0 < n < 65536 for n in numbers) or numbers != sorted(numbers):
        raise ValueError(f"port is '{port}', but must be a number from 1 to 65535 or a range such as 8000:8100")
    if not re.fullmatch(r"[\w .,:/()+-]*", comment):
        raise ValueError(f"comment is '{comment}', but may only hold letters, digits, spaces and . , : / ( ) + -")
    action = "limit" if item["limit"] else "allow"
    rule = f"{action} {port}/{proto}"
    if source:
        network = ipaddress.ip_network(source, strict=False)
        if network.prefixlen == 0:
            raise ValueError(f"from is '{source}', which is everybody: leave it out")
        shown = network.network_address if network.num_addresses == 1 else network
        rule = f"{action} from {shown} to any port {port} proto {proto}"
    return f"{rule} comment '{comment}'" if comment else rule


def allows_port(item: dict[str, Any], ports: set[int]) -> bool:
    """Whether somebody can reach one of these TCP ports by a rule."""
    first, _, last = item["port"].partition(":")
    return item["proto"] == "tcp" and any(int(first) <= port <= int(last or first) for port in ports)


def without_comment(rule: str) -> str:
    """What the rule matches: UFW changes a rule in place when only its comment differs."""
    return re.sub(r" comment '.*'$", "", rule)


class Ufw:
    """The firewall as it is on the host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.program = shutil.which("ufw", path="/usr/sbin:/sbin:/usr/bin:/bin")

    def call(self, *argv: str) -> str:
        _rc, out, _err = self.module.run_command([self.program, *argv], check_rc=True)
        return str(out)

    def rules(self) -> list[str]:
        if not self.program:
            return []
        return [line[4:].strip() for line in self.call("show", "added").splitlines() if line.startswith("ufw ")]

    def sshd_ports(self) -> set[int]:
        """Where sshd listens, or systemd for it."""
        _rc, out, _err = self.module.run_command(["ss", "-H", "--listening", "--tcp", "--numeric", "--processes"])
        listed = (line.split() for line in out.splitlines() if re.search(r'"sshd"|"systemd"', line))
        return {int(port) for words in listed if (port := words[3].rpartition(":")[2]).isdigit()}

    def policies(self) -> dict[str, str]:
        """The default for each direction, in UFW's words: DROP, ACCEPT or REJECT."""
        path = Path("/etc/default/ufw")
        text = path.read_text() if path.exists() else ""
        return dict(re.findall(r'^(DEFAULT_\w+_POLICY)="?(\w+)"?$', text, re.MULTILINE))

    def is_active(self) -> bool:
        return bool(self.program) and "Status: active" in self.call("status")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "allow": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "port": {"type": "str", "required": True},
                    "proto": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
                    "from": {"type": "str"},
                    "limit": {"type": "bool", "default": False},
                    "comment": {"type": "str", "default": ""},
                },
            }
        },
        supports_check_mode=True,
    )
    wanted: list[str] = []
    for item in module.params["allow"]:
        try:
            wanted.append(ufw_rule(item))
        except ValueError as error:
            module.fail_json(msg=f"Firewall rule {item}: {error}.")
    wanted = list(dict.fromkeys(wanted))
    ufw = Ufw(module)
    listening = ufw.sshd_ports()
    # Check mode has not moved sshd to its new port.
    if listening and not module.check_mode and not any(allows_port(item, listening) for item in module.params["allow"]):
        ports = ", ".join(map(str, sorted(listening)))
        module.fail_json(
            msg=f"These rules would let nobody in by SSH any more: sshd listens on port {ports}, and none of them is "
            "for that. Look at ssh_port and firewall_ssh_port. Nothing was changed."
        )
    rules, policies, is_active = ufw.rules(), ufw.policies(), ufw.is_active()
    to_add = [rule for rule in wanted if rule not in rules]
    kept = {without_comment(rule) for rule in wanted}
    to_delete = [rule for rule in rules if without_comment(rule) not in kept]
    to_set = [d for d, (key, value, _word) in POLICIES.items() if policies.get(key) != value]
    changed = bool(to_add or to_delete or to_set or not is_active)

    token = "" if module.check_mode else restart_undo_timer()
    if changed and not module.check_mode:
        if not ufw.program:
            module.fail_json(msg="UFW is not installed.")
        token = arm()
        for rule in to_add:
            # UFW takes the first rule that fits: who may come as often as they like goes before those who may not.
            ufw.call(*(["prepend"] if rule.startswith("allow from ") else []), *shlex.split(rule))
        # Read again: adding one rule can have changed another in place.
        for rule in (rule for rule in ufw.rules() if without_comment(rule) not in kept):
            words = shlex.split(without_comment(rule))
            ufw.call(*(["route", "delete", *words[1:]] if words[0] == "route" else ["delete", *words]))
        for direction in to_set:
            ufw.call("default", POLICIES[direction][2], direction)
        if not is_active:
            ufw.call("--force", "enable")
        restart_undo_timer()  # a minute from here, however long that took
    module.exit_json(
        changed=changed,
        rules=wanted,
        diff={
            "before": listing(rules, is_active, to_set),
            "after": listing(wanted, True, []),
        },
        **({"ansible_facts": {"unconfirmed_access": token}} if token else {}),
    )


def listing(rules: list[str], is_active: bool, wrong_policies: list[str]) -> str:
    """The firewall in a few lines, for a diff."""
    lines = [
        f"firewall {'on' if is_active else 'off'}",
        *(f"default for {d}: not as it should be" for d in wrong_policies),
    ]
    return "".join(f"{line}\n" for line in [*lines, *sorted(rules)])


if __name__ == "__main__":
    main()
