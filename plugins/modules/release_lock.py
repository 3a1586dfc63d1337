#!/usr/bin/python
"""Lock an app on a host, so that only one run at a time changes it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_lock
short_description: Lock an app for a deploy or rollback
description:
  - Takes the lock of an app on a host, or frees it. The control node renews it every few seconds while the run is
    alive. A lock that was not renewed for a minute belongs to a run that has died, and is taken over.
  - While another run renews the lock, this one fails with the name of its owner.
  - Then undoes the changes of an interrupted run, so that the confirmed release is live.
  - From then on, the host watches the lock. When the run is interrupted, the host returns to its confirmed release and
    frees the lock by itself.
  - In check mode, does not take the lock, but returns the host's releases.
options:
  state:
    description: >-
      V(locked) takes the lock, V(free) frees it. V(abandoned) leaves it to the host, which returns to its confirmed
      release, repeats that until it succeeds, and then frees the lock.
    type: str
    choices: [locked, free, abandoned]
    default: locked
  by:
    description: User and control node of the run. Set by the action part of this module.
    type: str
    default: ""
  force:
    description: Take the lock even while another run renews it. That run then fails at its next step.
    type: bool
    default: false
extends_documentation_fragment:
  - blueoctopus.site.attributes
  - blueoctopus.site.release
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Lock the app
  blueoctopus.site.release_lock:
    name: blueoctopus
    root: /srv/blueoctopus
  register: app_lock

- name: Unlock the app
  blueoctopus.site.release_lock:
    name: blueoctopus
    root: /srv/blueoctopus
    state: free
    token: "{{ app_lock.token }}"
"""

RETURN = r"""
token:
  description: The token of the run, which the other modules require.
  returned: when the lock was taken
  type: str
live:
  description: Id of the live release; empty when there is none.
  returned: when the lock was taken, or in check mode
  type: str
confirmed:
  description: Id of the release that a failed run returns to; empty when there is none, or the app was stopped.
  returned: when the lock was taken, or in check mode
  type: str
stopped:
  description: Whether the app was stopped.
  returned: when the lock was taken, or in check mode
  type: bool
restored:
  description: >-
    Whether the confirmed release is live. If it no longer starts after an interrupted run, there is a warning, and the
    host must repeat that when this run has changed nothing.
  returned: when the lock was taken
  type: bool
stack:
  description: >-
    Ids of the good releases. The last one is the live one; a rollback goes to the one before it.
  returned: when the lock was taken, or in check mode
  type: list
  elements: str
rolled_back:
  description: Ids of the good releases that were rolled back from.
  returned: when the lock was taken, or in check mode
  type: list
  elements: str
releases:
  description: >-
    Ids of the complete releases, each with the digest of its content. The digest is empty when the venv has another
    version of Python, so that the content is built again.
  returned: when the lock was taken, or in check mode
  type: dict
settled:
  description: Whether all units of the live release run, and no other releases do.
  returned: when the lock was taken, or in check mode
  type: bool
"""

import contextlib
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import NotReady
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import Lock, LockHeld, LockLost
from ansible_collections.blueoctopus.site.plugins.module_utils.release_module import release_module, work
from ansible_collections.blueoctopus.site.plugins.module_utils.release_undo import (
    INTERRUPTED,
    is_settled,
    remove_guards,
    restore,
    start_guard,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import AccountError, Releases


def snapshot(store: Releases) -> dict[str, Any]:
    """The state of the host that a deploy or rollback requires for its plan."""
    return {
        "live": store.live,
        "confirmed": store.confirmed,
        "stopped": store.stopped,
        "stack": store.stack,
        "rolled_back": store.rolled_back,
        "releases": {
            release: str(store.about(release).get("digest", "")) if store.has_python(release) else ""
            for release in store.complete()
        },
        "settled": is_settled(store),
    }


def restore_if_it_starts(module: AnsibleModule, store: Releases) -> bool:
    """Restore the confirmed release after an interrupted run. A release that no longer starts blocks no deploy."""
    try:
        restore(store, store.confirmed, INTERRUPTED)
        return True
    except NotReady as error:
        live = f"release {store.live} stays live for now" if store.live else "no release is live"
        module.warn(
            f"{store.name}: the run before was interrupted, and the confirmed release {store.confirmed} could not be "
            f"restored: {error}. So {live}."
        )
        return False


def main() -> None:
    module, store = release_module(
        state={"type": "str", "choices": ["locked", "free", "abandoned"], "default": "locked"},
        by={"type": "str", "default": ""},
        force={"type": "bool", "default": False},
    )
    params, lock = module.params, Lock(module.params["name"])
    if params["state"] != "locked":
        if not module.check_mode:
            (lock.free if params["state"] == "free" else lock.abandon)(params["token"])
        module.exit_json(changed=False)
    try:
        store.check_account()
    except AccountError as error:
        module.fail_json(msg=f"{params['name']}: {error}. Nothing was changed. Give the app another name.")
    if module.check_mode:
        module.exit_json(changed=False, **snapshot(store))
    try:
        params["token"] = lock.acquire(params["by"], force=params["force"])
    except LockHeld as error:
        module.fail_json(msg=str(error))
    except (LockLost, OSError) as error:
        module.fail_json(msg=f"{params['name']} could not be locked: {error}")
    try:
        # Until the control node knows the token, only this module can renew the lock.
        with lock.kept(params["token"]), work(module):
            start_guard(params["name"], params["root"], params["token"])
            lock.set_guard(params["token"])
            settled = is_settled(store)
            with contextlib.suppress(OSError):
                remove_guards(params["name"], but=params["token"])
            restored = settled or restore_if_it_starts(module, store)
            state = snapshot(store)
    except BaseException:
        # The guard waits until no module of another run is running, and then restores the host. Without a guard,
        # nothing was changed.
        (lock.abandon if lock.guard == params["token"] else lock.free)(params["token"])
        raise
    module.exit_json(changed=not settled and bool(state["releases"]), token=params["token"], restored=restored, **state)


if __name__ == "__main__":
    main()
