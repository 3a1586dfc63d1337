"""What the modules that work on an app's releases have in common."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of the modules that change an app's releases on a host."""

    # Of every one.
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

    # Of those for one release.
    ID = r"""
options:
  release:
    description: Id of the release.
    type: str
    required: true
"""

    # Of those that write into the history.
    HISTORY = r"""
options:
  action:
    description: What the run is for, for the history.
    type: str
    choices: [deploy, rollback]
    default: deploy
  by:
    description: Whose run it is, for the history.
    type: str
    default: ""
"""
