#!/usr/bin/python
"""Choose the release of a deploy or a rollback. This file is the documentation; the code is an action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_choice
short_description: Choose the release of a deploy or a rollback
description:
  - Chooses the release that every host gets, and the one that every host returns to after a failure.
  - With O(packages), it is a release for a deploy, otherwise one for a rollback.
options:
  app:
    description: Name of the app.
    type: str
    required: true
  states:
    description: Results of M(blueoctopus.site.release_lock), by the names of the hosts.
    type: dict
    required: true
  packages:
    description: Results RV(blueoctopus.site.release_source#module:package) of the same hosts, in the same order.
    type: list
    elements: dict
  rebuild:
    description: With O(packages), choose a new release in any case.
    type: bool
    default: false
  release:
    description: Release to roll back to; the previous good one when empty.
    type: str
    default: ""
  batch:
    description: Number of hosts that switch at the same time, or the percentage of the hosts; at least one host.
    type: str
    default: 100%
  canary:
    description: Number of hosts that are a batch of their own, the first one. At least one host is left for the others.
    type: int
    default: 0
  apps:
    description: Results RV(apps) of this module for other apps.
    type: dict
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
- name: Choose the release, the same for every host
  blueoctopus.site.release_choice:
    app: shop
    states: "{{ dict(ansible_play_hosts | zip(ansible_play_hosts | map('extract', hostvars, 'locked'))) }}"
    packages: "{{ ansible_play_hosts | map('extract', hostvars, ['source', 'package']) }}"
    apps: "{{ chosen.apps | default({}) }}"
  run_once: true
  register: chosen
"""

RETURN = r"""
apps:
  description: >-
    The choice for each app - the C(release), the C(former) release after a failure, the C(problem) of a rollback that
    is not possible, the C(batches) of hosts that switch one after the other, by their names for the output, and for
    each of the C(hosts) the release C(before), whether it was C(settled), and whether the release already C(exists)
    there.
  returned: success
  type: dict
"""
