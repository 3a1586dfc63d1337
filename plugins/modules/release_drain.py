#!/usr/bin/python
"""Drain the previous release, and remove old ones."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_drain
short_description: Drain the previous release and remove old releases
description:
  - Stops every release except the live one after its current requests, and removes those beyond O(keep_releases).
  - The live release is already confirmed. If this step fails and the lock is abandoned, the host repeats it.
options:
  prune:
    description: Whether to remove releases. V(false) after a rollback, to keep the release that was rolled back from.
    type: bool
    default: true
  keep_releases:
    description: Number of good releases to keep, including the live one. The good one before it is always kept.
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
- name: Drain the previous release
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
