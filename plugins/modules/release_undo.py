#!/usr/bin/python
"""Return a host to the previous release after a failed deploy or rollback."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_undo
short_description: Return a host to the previous release
description:
  - Makes the previous release live again, with its nginx site, its processes and its timers. Stops everything that the
    failed run has started, and removes releases that are not good.
  - Changes nothing on a host where the previous release is live and the failed run has left nothing.
options:
  former:
    description: >-
      Id of the previous release. When the host does not have it, O(own) becomes live; without either, no release.
    type: str
    default: ""
  own:
    description: Id of the release that was confirmed on this host before the run.
    type: str
    default: ""
  stopped:
    description: Whether the app was stopped on this host before the run. It stays stopped.
    type: bool
    default: false
  release:
    description: Id of the release that failed, for the history.
    type: str
    default: ""
  reason:
    description: Reason of the failure, in one line, for the history.
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
- name: Return to the previous release
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
  description: Id of the live release; empty when there is none.
  returned: success
  type: str
"""

from ansible_collections.blueoctopus.site.plugins.module_utils.instances import NotReady
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import Lock
from ansible_collections.blueoctopus.site.plugins.module_utils.release_module import HISTORY, release_module, work
from ansible_collections.blueoctopus.site.plugins.module_utils.release_undo import is_settled, restore
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases


def is_recorded(store: Releases, lock: Lock, run: dict[str, str]) -> bool:
    """Whether the history has the failure of this run already: its guard records it when the run is suspended."""
    owner = lock.owner or {"since": ""}
    locked = owner["since"].replace(" ", "T")[: len("2026-01-01T00:00:00")]
    events = [event for event in store.history() if event["time"] >= locked]
    results = [event["result"] for event in events if run.items() <= event.items()]
    return "begun" in results and "failed" in results[results.index("begun") :]


def main() -> None:
    module, store = release_module(
        former={"type": "str", "default": ""},
        own={"type": "str", "default": ""},
        stopped={"type": "bool", "default": False},
        release={"type": "str", "default": ""},
        reason={"type": "str", "default": ""},
        **HISTORY,
    )
    params = module.params
    if module.check_mode:
        module.exit_json(changed=False, live=store.live)
    with work(module) as lock:
        own, good = params["own"], store.good()
        former = next((release for release in (params["former"], own) if release in good), "")
        if params["stopped"]:
            former = ""
        elif own and not former:
            module.fail_json(msg=f"{params['name']}: release {own}, which was live before, is no longer on this host.")
        changed = not is_settled(store) or former != store.live
        failed = {key: params[key] for key in ("action", "release", "by")} if params["release"] else None
        if failed and is_recorded(store, lock, failed):
            failed = None
        before = len(store.history())
        try:
            restore(store, former, params["reason"], failed)
        except NotReady:
            if former == own or own not in good:
                raise
            is_new = "failed" not in [event["result"] for event in store.history()[before:]]
            restore(store, own, params["reason"], failed if is_new else None)
    module.exit_json(changed=changed, live=store.live)


if __name__ == "__main__":
    main()
