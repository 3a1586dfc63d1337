#!/usr/bin/python
"""Check the whole inventory on the control node. This file is its documentation; the code is an action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: check_inventory
short_description: Check the inventory before any host is touched
description:
  - Looks at the variables of every host of the play, on the control node. One error names everything that is wrong -
    where, what was found, what is expected, and an example.
  - Refuses an ansible-core that is older than the one this collection was tested with.
options:
  app:
    description: The app that the command line names. It has to be in the inventory.
    type: str
  app_required:
    description: Whether the command line has to name an app.
    type: bool
    default: false
  keys:
    description: The only keys of that app, or of all apps when none is named, that are checked. All when left out.
    type: list
    elements: str
  options:
    description: Options of the playbook, by name, each with the C(given) value and the C(choices) there are.
    type: dict
    default: {}
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
    app: "{{ app | default(omit) }}"
  run_once: true
  any_errors_fatal: true
"""

RETURN = r"""# """
