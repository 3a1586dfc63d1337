"""The documentation that all modules of this collection share."""

from __future__ import annotations


class ModuleDocFragment:
    """Author, and descriptions of the attributes; each module states its own support for them."""

    DOCUMENTATION = r"""
author: The Blue Octopus authors (!UNKNOWN)
attributes:
  check_mode:
    description: Can run in check mode and report what it would change, without changing anything.
  diff_mode:
    description: Shows what is changed, or would be changed in check mode, when Ansible is in diff mode.
"""
