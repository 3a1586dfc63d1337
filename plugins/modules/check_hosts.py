#!/usr/bin/python
"""Check that the hosts are reachable and supported. This file is the documentation; the code is an action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: check_hosts
short_description: Check the hosts before anything is changed
description:
  - Fails when a host of the play can't be reached, does not run a supported system, or has an account with the name of
    an app that was not created for the app. The error includes the solution.
  - With O(skip_unreachable), a webserver that can't be reached is no error, as long as another one and all balancers
    can be reached.
options:
  hosts:
    description: Results of M(blueoctopus.site.reach_host), by the names of the hosts.
    type: dict
    required: true
  untested_system:
    description: Accept any operating system.
    type: bool
    default: false
  webservers:
    description: The webservers of the inventory that can be left out; none when empty.
    type: list
    elements: str
    default: []
  balancers:
    description: The balancers of the inventory, which keep requests away from a webserver that is left out.
    type: list
    elements: str
    default: []
  skip_unreachable:
    description: Leave out webservers that can't be reached.
    type: bool
    default: false
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
    hosts: "{{ dict(ansible_play_hosts_all | zip(ansible_play_hosts_all | map('extract', hostvars, 'reached'))) }}"
  run_once: true
  any_errors_fatal: true
"""

RETURN = r"""
left_out:
  description: The webservers that are left out.
  returned: success
  type: list
  elements: str
"""
