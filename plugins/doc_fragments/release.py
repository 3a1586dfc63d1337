"""The documentation that the modules for releases share."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of the modules that change an app's releases on a host."""

    # For all of them.
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
      Token of the lock, from M(blueoctopus.site.release_lock). Without the lock, the module changes nothing and
      fails.
    type: str
    default: ""
notes:
  - Needs root on the host.
"""

    # For those that work on one release.
    ID = r"""
options:
  release:
    description: Id of the release.
    type: str
    required: true
"""

    # For those that write to the history.
    HISTORY = r"""
options:
  action:
    description: Purpose of the run, for the history.
    type: str
    choices: [deploy, rollback]
    default: deploy
  by:
    description: User and control node of the run, for the history.
    type: str
    default: ""
"""
