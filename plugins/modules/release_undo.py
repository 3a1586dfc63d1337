#!/usr/bin/python
"""Bring a host back to the release before a failed deploy or rollback."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_undo
short_description: Bring a host back to the release before
description:
  - Has the former release serve again, with its own site of nginx, its processes and its timers. What the failed run
    has started is stopped, and a release that never proved itself is removed.
  - Changes nothing on a host where the former release serves and nothing else is there.
options:
  former:
    description: >-
      Id of the release to go back to. When the host does not have it, O(own); when there is none, no release is live.
    type: str
    default: ""
  own:
    description: Id of the release that was live on this host before the run.
    type: str
    default: ""
  release:
    description: Id of the release that failed, for the history.
    type: str
    default: ""
  reason:
    description: Why, in one line, for the history.
    type: str
    default: ""
extends_documentation_fragment:
  - blueoctopus.site.attributes
  - blueoctopus.site.release
  - blueoctopus.site.release.history
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Go back to the release before
  blueoctopus.site.release_undo:
    name: blueoctopus
    root: /srv/blueoctopus
    token: "{{ app_lock.token }}"
    former: 20260101T030405Z-3e4b1f0c2d
    release: 20260102T030405Z-1f0c2d3e4b
    reason: web2 did not become ready
"""

RETURN = r"""
live:
  description: Id of the release that serves; empty when none does.
  returned: success
  type: str
"""

from ansible_collections.blueoctopus.site.plugins.module_utils.release_module import HISTORY, release_module, work
from ansible_collections.blueoctopus.site.plugins.module_utils.release_undo import is_settled, restore


def main() -> None:
    module, store = release_module(
        former={"type": "str", "default": ""},
        own={"type": "str", "default": ""},
        release={"type": "str", "default": ""},
        reason={"type": "str", "default": ""},
        **HISTORY,
    )
    params = module.params
    if module.check_mode:
        module.exit_json(changed=False, live=store.live)
    with work(module):
        former = next((r for r in (params["former"], params["own"]) if r in store.good()), "")
        changed = not is_settled(store) or former != store.live
        failed = {key: params[key] for key in ("action", "release", "by")} if params["release"] else None
        restore(store, former, params["reason"], failed)
    module.exit_json(changed=changed, live=store.live)


if __name__ == "__main__":
    main()
