#!/usr/bin/python
"""Verify the new login and confirm the changes. This file is the documentation; the code is an action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: confirm_access
short_description: Verify the new login and confirm the changes
description:
  - Logs in over a new connection and confirms the changes of M(blueoctopus.site.admin_account),
    M(blueoctopus.site.sshd_policy) and M(blueoctopus.site.ufw_policy), so that the host keeps them.
  - Does nothing when nothing has changed. Fails when the login fails; the host then undoes the changes.
options:
  user:
    description: User of the login.
    type: str
    required: true
  port:
    description: SSH port of the login.
    type: int
    required: true
  token:
    description: The returned RV(blueoctopus.site.ufw_policy#module:token) of the last change; empty without a change.
    type: str
    required: true
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Allow SSH
  blueoctopus.site.ufw_policy:
    allow:
      - {port: 22, comment: SSH, limit: true}
  register: firewall_result

- name: Verify the new login
  blueoctopus.site.confirm_access:
    user: admin
    port: 22
    token: "{{ firewall_result.token }}"
"""

RETURN = r"""# """
