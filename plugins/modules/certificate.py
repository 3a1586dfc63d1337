#!/usr/bin/python
"""See to it that a site has the certificate that it should have."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate
short_description: Give a site its certificate
description:
  - Writes down what certificate a site should have, for the program of the role C(certificate), and lets that program
    obtain it when there is none, another one is wanted, or the last try failed. Then nginx reloads. Certificates from a
    CA are renewed by a timer on the host.
  - A certificate that can't be had is a warning, and RV(problem) says why. The present one stays in its place. Where
    there was none, a placeholder signed by itself lets nginx start.
options:
  name:
    description: Name of the site.
    type: str
    required: true
  domains:
    description: Host names that the certificate is for.
    type: list
    elements: str
    required: true
  method:
    description: From an ACME CA, signed by itself, or provided in O(certificate) and O(key).
    type: str
    choices: [acme, selfsigned, provided]
    required: true
  directory:
    description: Address of the CA's ACME directory.
    type: str
    default: ""
  ca_bundle:
    description: File on the host with CAs that vouch for the ACME directory itself, beside the system's.
    type: str
    default: ""
  email:
    description: Where the CA may write to.
    type: str
    default: ""
  challenge:
    description: How to prove that the domains are ours.
    type: str
    choices: [http, dns]
    default: http
  dns_provider:
    description: Name of certbot's plugin that sets the records for the challenge dns, without its C(dns-).
    type: str
    default: ""
  check_names:
    description: See first that the domains lead to this host.
    type: bool
    default: true
  certificate:
    description: The provided certificate and those between it and the CA's root, in PEM form.
    type: str
    default: ""
  key:
    description: The provided certificate's private key, in PEM form.
    type: str
    default: ""
  operation:
    description: V(renew) when it is due, V(force) a new one, or V(revoke) the present one after getting a new one.
    type: str
    choices: [renew, force, revoke]
    default: renew
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Give the site its certificate
  blueoctopus.site.certificate:
    name: blueoctopus
    domains: [example.org, www.example.org]
    method: acme
    directory: https://acme-v02.api.letsencrypt.org/directory
"""

RETURN = r"""
problem:
  description: Why the certificate could not be had; empty when it could.
  returned: success
  type: str
real:
  description: Whether the site has a certificate, and not only a placeholder.
  returned: success
  type: bool
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.files import difference, read, write

PROGRAM = "/usr/local/sbin/certificates"
SETTINGS = Path("/etc/certificates")
STATE = Path("/var/lib/certificates")
KEPT_IN_SETTINGS = ("domains", "method", "directory", "ca_bundle", "email", "challenge", "dns_provider", "check_names")


def call(module: AnsibleModule, operation: str, given: str | None = None) -> str:
    """Call the program as its own user."""
    command = ["runuser", "-u", "certificates", "--", PROGRAM, f"{operation}:{module.params['name']}"]
    return str(module.run_command(command, data=given, check_rc=True)[1])


def pending() -> bool:
    """Whether nginx has not applied a new certificate yet."""
    return any(STATE.glob("changed*"))


def reloaded(module: AnsibleModule) -> bool:
    """Have nginx take up what is new; it has when the mark is gone. The program's own unit may be at it, too."""
    for _ in range(3):
        module.run_command(["systemctl", "start", "certificates-reload.service"])
        if not pending():
            return True
        time.sleep(1)
    return False


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "domains": {"type": "list", "elements": "str", "required": True},
            "method": {"type": "str", "choices": ["acme", "selfsigned", "provided"], "required": True},
            "directory": {"type": "str", "default": ""},
            "ca_bundle": {"type": "str", "default": ""},
            "email": {"type": "str", "default": ""},
            "challenge": {"type": "str", "choices": ["http", "dns"], "default": "http"},
            "dns_provider": {"type": "str", "default": ""},
            "check_names": {"type": "bool", "default": True},
            "certificate": {"type": "str", "default": ""},
            "key": {"type": "str", "default": "", "no_log": True},
            "operation": {"type": "str", "choices": ["renew", "force", "revoke"], "default": "renew"},
        },
        supports_check_mode=True,
    )
    params = module.params
    path = SETTINGS / f"{params['name']}.json"
    wanted = json.dumps({key: params[key] for key in KEPT_IN_SETTINGS}, indent=1) + "\n"
    written = read(path)
    result: dict[str, Any] = {
        "diff": difference(path, written, wanted),
        "changed": written != wanted,
        "problem": "",
        "real": False,
    }
    if not os.access(PROGRAM, os.X_OK):
        if module.check_mode:
            module.exit_json(**result | {"changed": True})
        module.fail_json(msg=f"{PROGRAM} is not there. Run playbooks/provision.yml on this host first.")
    before = json.loads(call(module, "show")) if written else {"due": True, "version": ""}
    if module.check_mode:
        there = STATE / params["name"] / "current/fullchain.pem"
        due = before["due"]
        if params["method"] == "provided":
            due = not there.exists() or there.read_text() != params["certificate"]
        module.exit_json(**result | {"changed": result["changed"] or due or params["operation"] != "renew"})

    if written != wanted:
        write(path, wanted)
    failed = reload_failed = False
    if params["method"] == "provided":
        call(module, "install", json.dumps({"certificate": params["certificate"], "key": params["key"]}))
    elif written != wanted or before["due"] or params["operation"] != "renew":
        unit = f"certificates@{params['operation']}:{params['name']}.service"
        failed = module.run_command(["systemctl", "start", unit])[0] != 0
    after = before
    if written != wanted or before["due"] or params["operation"] != "renew" or pending():
        reload_failed = not reloaded(module)
        after = json.loads(call(module, "show"))
    result |= {"changed": result["changed"] or after["version"] != before["version"], "real": after["real"]}
    if failed or reload_failed or after["due"]:
        unit = "certificates-reload" if reload_failed else f"certificates@*:{params['name']}.service"
        result["problem"] = (not reload_failed and after.get("error")) or f"see journalctl --unit '{unit}'"
        keeps = "The present one stays." if after["real"] else "Until it has one, the site is there without HTTPS."
        module.warn(f"{params['name']}: a new certificate is not in place: {result['problem']}. {keeps}")
        result["ansible_facts"] = {f"certificate_problem_{params['name']}": f"{params['name']}: {result['problem']}"}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
