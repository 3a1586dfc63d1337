#!/usr/bin/python
"""Validate the whole inventory on the control node. This file is the documentation; the code is an action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: check_inventory
short_description: Validate the inventory before any host is changed
description:
  - Validates the variables of every host of the play, on the control node. One error lists all problems - where each
    is, the value found, the value expected, and an example.
  - Refuses an ansible-core that is older than the oldest version with which this collection was tested.
options:
  app:
    description: The app of the option C(-e app).
    type: str
  app_known:
    description: Whether that app must be in the inventory.
    type: bool
    default: true
  app_required:
    description: Whether the option C(-e app) is required.
    type: bool
    default: false
  keys:
    description: Check only these keys of that app, or of all apps when O(app) is omitted. By default, check everything.
    type: list
    elements: str
  options:
    description: >-
      Options of the playbook, by name, each with the C(given) value and its description, in the keywords of
      C(roles/*/meta/settings.yml).
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
