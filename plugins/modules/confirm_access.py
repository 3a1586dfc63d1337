#!/usr/bin/python
"""Get in the new way, and keep what was changed. This file is its documentation; the code is an action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: confirm_access
short_description: Confirm that one can still get in
description:
  - Logs in over a connection of its own and tells the host to keep what M(blueoctopus.site.admin_account),
    M(blueoctopus.site.sshd_policy) and M(blueoctopus.site.ufw_policy) have changed.
  - When nothing has changed, it does nothing. When nobody gets in, it fails, and the host undoes the changes.
options:
  user:
    description: User to get in with.
    type: str
    required: true
  port:
    description: Port to get in at.
    type: int
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
- name: Get in the new way
  blueoctopus.site.confirm_access:
    user: admin
    port: 22
"""

RETURN = r"""# """
