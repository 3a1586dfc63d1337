#!/usr/bin/python
"""Install Debian packages. This file is the documentation; the code is an action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: debian_packages
short_description: Install Debian packages
description:
  - Installs the packages that are missing, without recommended ones, with M(ansible.builtin.apt).
  - Asks dpkg first which packages are missing. apt alone needs more than a second to find that none is, and
    C(python3-apt) on the host to predict anything in check mode.
options:
  names:
    description: Names of the packages.
    type: list
    elements: str
    required: true
  lock_timeout:
    description: Seconds to wait while another program holds the lock of dpkg.
    type: int
    default: 600
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Install the packages
  blueoctopus.site.debian_packages:
    names: [nginx, ufw]
"""

RETURN = r"""
missing:
  description: The packages that were not installed.
  returned: always
  type: list
  elements: str
"""
