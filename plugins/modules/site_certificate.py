#!/usr/bin/python
"""Configure and obtain the certificate of a site."""

from __future__ import annotations

DOCUMENTATION = r"""
module: site_certificate
short_description: Obtain the certificate of a site
description:
  - Writes the settings of a site's certificate for the program of the role C(certificate), and runs that program when
    the site has no certificate, when the settings have changed, or when the last attempt failed. Then nginx reloads. A
    timer on the host renews the certificates.
  - When no certificate can be obtained, the module warns, and RV(problem) contains the reason. The current certificate
    stays in use. A site without one gets a self-signed placeholder, so that nginx can start.
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
  keep_domains:
    description: >-
      Keep the domains of the current certificate that are no longer in O(domains). With V(true), a deploy that fails
      leaves a certificate for the domains of the release that stays live.
    type: bool
    default: false
  method:
    description: From an ACME certificate authority, self-signed, or provided in O(certificate) and O(key).
    type: str
    choices: [acme, selfsigned, provided]
    required: true
  directory:
    description: URL of the certificate authority's ACME directory.
    type: str
    default: ""
  ca_bundle:
    description: File on the host with further authorities that may have signed the ACME directory's own certificate.
    type: str
    default: ""
  email:
    description: Email address for the account at the certificate authority.
    type: str
    default: ""
  challenge:
    description: How to prove control of the domains.
    type: str
    choices: [http, dns]
    default: http
  dns_provider:
    description: Name of the certbot plugin for the DNS provider, without its C(dns-). Used by the challenge V(dns).
    type: str
    default: ""
  check_names:
    description: Verify that the domains lead to this host before a certificate is requested.
    type: bool
    default: true
  issued_by:
    description: >-
      Name of the host that obtains and renews the certificate, if that is another one. This host installs
      O(certificate), and obtains a certificate itself when it has none, or when a sixth of its lifetime is left.
    type: str
    default: ""
  certificate:
    description: >-
      The certificate that is provided, or that O(issued_by) has, followed by the intermediate ones, in PEM form.
    type: str
    default: ""
  key:
    description: The private key of O(certificate), in PEM form.
    type: str
    default: ""
  operation:
    description: >-
      V(renew) a certificate that is due, V(force) a new one, or V(revoke) the current one after a new one was obtained.
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
- name: Obtain the certificate of the site
  blueoctopus.site.site_certificate:
    name: blueoctopus
    domains: [example.org, www.example.org]
    method: acme
    directory: https://acme-v02.api.letsencrypt.org/directory
"""

RETURN = r"""
kept:
  description: The domains that were kept although they are no longer in O(domains).
  returned: success
  type: list
  elements: str
problem:
  description: The site's name and why no certificate was obtained; empty on success.
  returned: success
  type: str
real:
  description: Whether the site has a certificate other than the placeholder.
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
ACME_OPTIONS = ("directory", "ca_bundle", "email", "challenge", "dns_provider", "check_names")
KEPT_IN_SETTINGS = ("domains", "method", *ACME_OPTIONS, "issued_by")


def call(module: AnsibleModule, operation: str, given: str | None = None) -> str:
    """Call the program as its own user."""
    command = ["runuser", "-u", "certificates", "--", PROGRAM, f"{operation}:{module.params['name']}"]
    return str(module.run_command(command, data=given, check_rc=True)[1])


def pending() -> bool:
    """Whether nginx has not applied a new certificate yet."""
    return any(STATE.glob("changed*"))


def reloaded(module: AnsibleModule) -> bool:
    """Reload nginx, unless the program's own unit does, and return whether every new certificate is applied."""
    for _ in range(3):
        module.run_command(["systemctl", "start", "certificates-reload.service"])
        if not pending():
            return True
        time.sleep(1)
    return False


def domains_to_request(params: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """The domains for the certificate, with those of the current one that are kept.

    Args:
        params: the parameters of the module.
        before: what the program shows of the current certificate.
    """
    domains: list[str] = params["domains"]
    if not params["keep_domains"] or not before.get("real"):  # a placeholder is for no domain
        return domains
    if params["issued_by"] and params["certificate"]:  # the other host has decided
        return domains
    current: list[str] = before["wanted"]["domains"]
    if set(domains) <= set(current):
        return current
    # A provided certificate for a new domain comes as it is.
    return domains if params["method"] == "provided" else list(dict.fromkeys(domains + current))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "domains": {"type": "list", "elements": "str", "required": True},
            "keep_domains": {"type": "bool", "default": False},
            "method": {"type": "str", "choices": ["acme", "selfsigned", "provided"], "required": True},
            "directory": {"type": "str", "default": ""},
            "ca_bundle": {"type": "str", "default": ""},
            "email": {"type": "str", "default": ""},
            "challenge": {"type": "str", "choices": ["http", "dns"], "default": "http"},
            "dns_provider": {"type": "str", "default": ""},
            "check_names": {"type": "bool", "default": True},
            "issued_by": {"type": "str", "default": ""},
            "certificate": {"type": "str", "default": ""},
            "key": {"type": "str", "default": "", "no_log": True},
            "operation": {"type": "str", "choices": ["renew", "force", "revoke"], "default": "renew"},
        },
        supports_check_mode=True,
    )
    params = module.params
    path = SETTINGS / f"{params['name']}.json"
    written = read(path)
    has_program = os.access(PROGRAM, os.X_OK)
    is_copy = bool(params["issued_by"] and params["certificate"])
    is_given = params["method"] == "provided" or is_copy
    operation = "renew" if is_copy and params["operation"] == "force" else params["operation"]
    before = json.loads(call(module, "show")) if written and has_program else {"due": True, "version": ""}
    domains = domains_to_request(params, before)
    kept = [domain for domain in domains if domain not in params["domains"]]
    wanted = json.dumps({key: params[key] for key in KEPT_IN_SETTINGS} | {"domains": domains}, indent=1) + "\n"
    result: dict[str, Any] = {
        "diff": difference(path, written, wanted),
        "changed": written != wanted,
        "problem": "",
        "real": False,
        "kept": kept,
    }
    if not has_program:
        if module.check_mode:
            module.exit_json(**result | {"changed": True})
        module.fail_json(msg=f"{PROGRAM} is not installed. Run playbooks/provision.yml on this host first.")
    if kept and params["method"] == "provided":  # the given certificate may be for the other domains only
        module.exit_json(**result | {"changed": False, "diff": [], "real": True})
    if module.check_mode:
        there = STATE / params["name"] / "current/fullchain.pem"
        due = before["due"]
        if is_given:
            due = not there.exists() or there.read_text() != params["certificate"]
        module.exit_json(**result | {"changed": result["changed"] or due or params["operation"] != "renew"})

    if written != wanted:
        write(path, wanted)
    failed = reload_failed = False
    if is_given:
        call(module, "install", json.dumps({"certificate": params["certificate"], "key": params["key"]}))
    if params["method"] != "provided" and (written != wanted or before["due"] or operation != "renew"):
        unit = f"certificates@{operation}:{params['name']}.service"
        failed = module.run_command(["systemctl", "start", unit])[0] != 0
    after = before
    if written != wanted or before["due"] or operation != "renew" or pending():
        reload_failed = not reloaded(module)
        after = json.loads(call(module, "show"))
    result |= {"changed": result["changed"] or after["version"] != before["version"], "real": after["real"]}
    if failed or reload_failed or after["due"]:
        unit = "certificates-reload" if reload_failed else f"certificates@*:{params['name']}.service"
        reason = (not reload_failed and after.get("error")) or f"see sudo journalctl -u '{unit}'"
        result["problem"] = f"{params['name']}: {reason}"
        keeps = "The current certificate stays in use." if after["real"] else "Until then, the site has no HTTPS."
        module.warn(f"{params['name']}: no new certificate was obtained: {reason}. {keeps}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
