#!/usr/bin/python
"""Drain the release before the live one, and remove old ones."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_drain
short_description: Drain the release before, and prune
description:
  - Has every release but the live one finish its requests and stop, and removes those beyond O(keep_releases).
  - What fails here is made up for by the next run; the live release is confirmed already.
options:
  prune:
    description: Whether to remove releases. After a rollback, the one that was rolled back from stays within reach.
    type: bool
    default: true
  keep_releases:
    description: How many good releases to keep, the live one among them. The one before it is always kept.
    type: int
    default: 5
extends_documentation_fragment:
  - blueoctopus.site.attributes
  - blueoctopus.site.release
  - blueoctopus.site.release.id
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Drain the release before
  blueoctopus.site.release_drain:
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

from ansible_collections.blueoctopus.site.plugins.module_utils.instances import stop_other_releases
from ansible_collections.blueoctopus.site.plugins.module_utils.release_module import ID, release_module, work


def main() -> None:
    module, store = release_module(
        **ID,
        prune={"type": "bool", "default": True},
        keep_releases={"type": "int", "default": 5},
    )
    params = module.params
    removed: list[str] = []
    if module.check_mode:
        module.exit_json(changed=False, removed=removed)
    with work(module):
        stop_other_releases(store, params["release"])
        if params["prune"]:
            removed = store.prune(params["keep_releases"])
    module.exit_json(changed=True, removed=removed)


if __name__ == "__main__":
    main()
