#!/usr/bin/python
"""Check what was learnt of the hosts. This file is its documentation; the code is an action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: check_hosts
short_description: Check the hosts before anything is changed
description:
  - Fails when a host of the play can't be reached, or is not one that the roles are made for, and says how to go on.
  - Looks at the variable C(reached) of each host, which a task with M(blueoctopus.site.reach_host) has registered.
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Check the hosts
  blueoctopus.site.check_hosts:
  run_once: true
  any_errors_fatal: true
"""

RETURN = r"""# """
