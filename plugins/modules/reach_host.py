#!/usr/bin/python
"""Find the login of a host that works. This file is the documentation; the code is an action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: reach_host
short_description: Find the login of a host that works
description:
  - Finds the user and the port with which a login works - those of a fresh host, or those of a provisioned one - and
    detects the host's system. The host needs no Python for that.
  - Detects whether the run has a password for sudo, for which the task needs C(become). Logs in without sudo.
  - Sets the facts C(ansible_facts.distribution) and C(ansible_facts.distribution_major_version).
options:
  patience:
    description: Seconds to wait for a host that does not accept logins yet. If not 0, also wait for its first boot.
    type: int
    default: 0
  accounts:
    description: Names to look up as users and groups of the host.
    type: list
    elements: str
    default: []
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
  become: true
  register: reached
  ignore_unreachable: true
"""

RETURN = r"""
user:
  description: The user of the login that works now.
  returned: success
  type: str
port:
  description: The port that sshd listens on now.
  returned: success
  type: int
administrator:
  description: The user of the login after provisioning.
  returned: success
  type: str
sshd_port:
  description: The port that sshd listens on after provisioning.
  returned: success
  type: int
system:
  description: The settings of the host's os-release file.
  returned: success
  type: dict
sudo_password_given:
  description: Whether the inventory or the command line has a password for sudo.
  returned: success
  type: bool
python:
  description: Whether the host has Python.
  returned: success
  type: bool
cores:
  description: Number of processor cores of the host.
  returned: success
  type: int
accounts:
  description: >-
    The home of each user with one of the names in O(accounts); empty for a group without such a user. Names that the
    host does not have are left out.
  returned: success
  type: dict
redis:
  description: The apps that have an instance of Redis on the host.
  returned: success
  type: list
  elements: str
certificates:
  description: The apps whose certificates the host renews.
  returned: success
  type: list
  elements: str
clock:
  description: Whether the host has a program that sets its clock.
  returned: success
  type: bool
alerts:
  description: Whether the host sends alerts.
  returned: success
  type: bool
metrics:
  description: Whether the host has exporters for a monitor.
  returned: success
  type: bool
logs:
  description: Whether the host ships its logs.
  returned: success
  type: bool
http3:
  description: Whether the host listens for HTTP/3, on UDP port 443.
  returned: success
  type: bool
"""
