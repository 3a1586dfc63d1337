#!/usr/bin/python
"""Confirm the live release, drain the one before, and remove old ones."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_finish
short_description: Confirm the live release, drain the one before, prune
description:
  - Notes in the history that the live release has proved itself. From then on it is the one that a failed run goes back
    to.
  - Then the release before finishes its requests and stops, and releases beyond O(keep_releases) are removed. A failure
    of that is a warning; the next run makes up for it.
options:
  release:
    description: Id of the live release.
    type: str
    required: true
  action:
    description: What the run was for, for the history.
    type: str
    choices: [deploy, rollback]
    default: deploy
  by:
    description: Whose run it is, for the history.
    type: str
    default: ""
  keep_releases:
    description: How many good releases to keep, the live one among them. The one before it is always kept.
    type: int
    default: 5
extends_documentation_fragment: [release]
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Confirm the release
  release_finish:
    name: blueoctopus
    root: /srv/blueoctopus
    token: "{{ app_lock.token }}"
    release: 20260102T030405Z-1f0c2d3e4b
"""

RETURN = r"""
removed:
  description: Ids of the releases that were removed.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.instances import Instance, stop_others
from ansible.module_utils.release_module import release_module, work


def main() -> None:
    module, store = release_module(
        release={"type": "str", "required": True},
        action={"type": "str", "choices": ["deploy", "rollback"], "default": "deploy"},
        by={"type": "str", "default": ""},
        keep_releases={"type": "int", "default": 5},
    )
    params, release = module.params, module.params["release"]
    removed: list[str] = []
    if module.check_mode:
        module.exit_json(changed=False, removed=removed)
    with work(module):
        new = Instance(store, release)
        new.enable(*new.beside)
        store.note(params["action"], release, "ok", by=params["by"])
        try:
            stop_others(store, release)
            removed = store.prune(params["keep_releases"])
        except OSError as error:
            module.warn(f"{params['name']}: old releases could not be removed: {error}. The next deploy tries again.")
    module.exit_json(changed=True, removed=removed)


if __name__ == "__main__":
    main()
