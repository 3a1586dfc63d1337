#!/usr/bin/python
"""Set UFW's rules: allow only the given incoming connections."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ufw_policy
short_description: Allow only the given incoming connections
description:
  - Sets the whole policy of UFW - only the given incoming connections are allowed, all outgoing connections are
    allowed, and the firewall is active, now and after a reboot.
  - Rules that are not given are removed. New rules are added before anything is denied or removed.
  - Fails when the rules would block every connection to sshd. The host undoes a change after a minute unless
    M(blueoctopus.site.confirm_access) confirms it.
  - Does not reload UFW when nothing changes.
options:
  allow:
    description: The connections to allow, over IPv4 and IPv6.
    type: list
    elements: dict
    required: true
    suboptions:
      port:
        description: Port, or a range written C(FIRST:LAST). V(vrrp) has none.
        type: str
        default: ""
      proto:
        description: Protocol.
        type: str
        choices: [tcp, udp, vrrp]
        default: tcp
      from:
        description: Address or network that may connect; any address when omitted.
        type: str
      limit:
        description: Deny an address that opens more than six connections within 30 seconds.
        type: bool
        default: false
      comment:
        description: Comment of the rule in C(ufw status).
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
- name: Allow SSH and HTTP, and the monitoring server
  blueoctopus.site.ufw_policy:
    allow:
      - {port: 22, comment: SSH, limit: true}
      - {port: 80, comment: web}
      - {port: 9100, from: 10.0.0.5, comment: monitor}
"""

RETURN = r"""
rules:
  description: The rules in UFW's own syntax.
  returned: success
  type: list
  elements: str
  sample: ["allow 22/tcp comment 'SSH'"]
token:
  description: >-
    The value for O(blueoctopus.site.confirm_access#module:token), which confirms this change, or an earlier one that is
    not confirmed yet; empty without such a change, and in check mode.
  returned: success
  type: str
  sample: 0f3a9c51d2b7e846
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
    """Convert one item of O(allow) to the syntax of `ufw show added`.

    Raises:
        ValueError: with the invalid value.
    """
    port, proto, source, comment = item["port"], item["proto"], item["from"], item["comment"]
    if not re.fullmatch(r"[\w .,:/()+-]*", comment):
        raise ValueError(f"comment is '{comment}', but may only contain letters, digits, spaces and . , : / ( ) + -")
    described = f" comment '{comment}'" if comment else ""
    if proto == "vrrp":
        if port or not source or item["limit"]:
            raise ValueError("proto is 'vrrp': the rule must have the key from, and neither port nor limit")
        return f"allow from {shown_network(source)} proto vrrp{described}"
    numbers = [int(n) for n in port.split(":")] if re.fullmatch(r"\d{1,5}(:\d{1,5})?", port) else [0]
    if not all(0 < n < 65536 for n in numbers) or numbers != sorted(numbers):
        raise ValueError(f"port is '{port}', but must be a number from 1 to 65535 or a range such as 8000:8100")
    action = "limit" if item["limit"] else "allow"
    rule = f"{action} {port}/{proto}"
    if source:
        rule = f"{action} from {shown_network(source)} to any port {port} proto {proto}"
    return f"{rule}{described}"


def shown_network(source: str) -> str:
    """An address or network as UFW shows it.

    Raises:
        ValueError: for a network of all addresses.
    """
    network = ipaddress.ip_network(source, strict=False)
    if network.prefixlen == 0:
        raise ValueError(f"from is '{source}', which matches every address: omit it")
    return str(network.network_address if network.num_addresses == 1 else network)


def allows_port(item: dict[str, Any], ports: set[int]) -> bool:
    """Whether a rule allows connections to one of these TCP ports."""
    first, _, last = item["port"].partition(":")
    return item["proto"] == "tcp" and any(int(first) <= port <= int(last or first) for port in ports)


def without_comment(rule: str) -> str:
    """The rule without its comment: UFW updates a rule in place when only the comment differs."""
    return re.sub(r" comment '.*'$", "", rule)


class Ufw:
    """The current firewall of the host."""

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
        """The ports on which sshd listens, or systemd for it."""
        _rc, out, _err = self.module.run_command(["ss", "-H", "--listening", "--tcp", "--numeric", "--processes"])
        listed = (line.split() for line in out.splitlines() if re.search(r'"sshd"|"systemd"', line))
        return {int(port) for words in listed if (port := words[3].rpartition(":")[2]).isdigit()}

    def policies(self) -> dict[str, str]:
        """The default policy of each direction: DROP, ACCEPT or REJECT."""
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
                    "port": {"type": "str", "default": ""},
                    "proto": {"type": "str", "choices": ["tcp", "udp", "vrrp"], "default": "tcp"},
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
    # In check mode, sshd has not switched to its new port.
    if listening and not module.check_mode and not any(allows_port(item, listening) for item in module.params["allow"]):
        ports = ", ".join(map(str, sorted(listening)))
        module.fail_json(
            msg=f"These rules would block all SSH logins: sshd listens on port {ports}, but no rule allows it. "
            "Check ssh_port and firewall_ssh_port. Nothing was changed."
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
            # UFW applies the first rule that matches: rules for certain addresses go before those with a limit.
            ufw.call(*(["prepend"] if rule.startswith("allow from ") else []), *shlex.split(rule))
        # Read the rules again: adding one may have updated another in place.
        for rule in (rule for rule in ufw.rules() if without_comment(rule) not in kept):
            words = shlex.split(without_comment(rule))
            ufw.call(*(["route", "delete", *words[1:]] if words[0] == "route" else ["delete", *words]))
        for direction in to_set:
            ufw.call("default", POLICIES[direction][2], direction)
        if not is_active:
            ufw.call("--force", "enable")
        restart_undo_timer()  # a full minute from here: the commands above may have been slow
    module.exit_json(
        changed=changed,
        rules=wanted,
        diff={
            "before": listing(rules, is_active, to_set),
            "after": listing(wanted, True, []),
        },
        token=token,
    )


def listing(rules: list[str], is_active: bool, wrong_policies: list[str]) -> str:
    """A description of the firewall, for a diff; of one that is off, its policies do not matter."""
    policies = [f"default for {direction}: wrong" for direction in wrong_policies] if is_active else []
    return "".join(f"{line}\n" for line in [f"firewall {'on' if is_active else 'off'}", *policies, *sorted(rules)])


if __name__ == "__main__":
    main()
