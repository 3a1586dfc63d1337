"""What the documentation of every module of this collection has in common."""

from __future__ import annotations


class ModuleDocFragment:
    """Author, and descriptions of the attributes; each module says itself which of them it supports."""

    DOCUMENTATION = r"""
author: The Blue Octopus authors (!UNKNOWN)
attributes:
  check_mode:
    description: Can run in check mode and tell what it would change, without changing anything.
  diff_mode:
    description: Tells what is changed, or would be in check mode, when Ansible is in diff mode.
"""
