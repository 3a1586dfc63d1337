#!/usr/bin/python
"""Reach a host by the login that works. This file is its documentation; the code is an action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: reach_host
short_description: Reach a host by the login that works
description:
  - Finds out which user and port get in - those of a fresh machine, or those that the inventory wants in the end - and
    what system the host runs. The host needs no Python for that.
  - Sets the fact C(ansible_facts.distribution_major_version).
options:
  patience:
    description: Seconds to wait for a host that does not answer yet; with any, also for the end of its first boot.
    type: int
    default: 0
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Reach every host
  blueoctopus.site.reach_host:
    patience: 300
  register: reached
  ignore_unreachable: true
"""

RETURN = r"""
user:
  description: The user who gets in now.
  returned: success
  type: str
port:
  description: The port that sshd listens on now.
  returned: success
  type: int
administrator:
  description: The user who is to get in in the end.
  returned: success
  type: str
sshd_port:
  description: The port that sshd is to listen on in the end.
  returned: success
  type: int
system:
  description: The settings of the host's os-release file.
  returned: success
  type: dict
python:
  description: Whether the host has Python.
  returned: success
  type: bool
clock:
  description: Whether the host has a program that sets its clock.
  returned: success
  type: bool
"""
