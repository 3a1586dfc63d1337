#!/usr/bin/python
"""Check the whole inventory on the control node. This file is its documentation; the code is an action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: check_inventory
short_description: Check the inventory before any host is touched
description:
  - Looks at the variables of every host of the play, on the control node. One error names everything that is wrong -
    where, what was found, what is expected, and an example.
  - The variables C(app_needed), C(checked_keys) and C(needed_options) of the play say what a playbook needs of the
    command line, and which keys of the app it uses.
  - Refuses an ansible-core that is older than the one this collection was tested with.
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Check the inventory
  blueoctopus.site.check_inventory:
  run_once: true
  any_errors_fatal: true
"""

RETURN = r"""# """
