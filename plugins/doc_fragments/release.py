"""What the modules that work on an app's releases have in common."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of every module that changes an app's releases on a host."""

    DOCUMENTATION = r"""
options:
  name:
    description: Name of the app.
    type: str
    required: true
  root:
    description: Folder of the app.
    type: path
    required: true
  token:
    description: >-
      The token of the lock, from M(blueoctopus.site.release_lock). Without the lock, the module changes nothing and
      fails.
    type: str
    default: ""
notes:
  - Needs root on the host.
"""
