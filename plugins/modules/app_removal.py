#!/usr/bin/python
"""Stop apps on a host, or remove them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: app_removal
short_description: Stop or remove apps
description:
  - Stops apps - removes their sites from nginx, then their services, background processes and timers. They do not start
    again at boot. Releases, data and users stay, so that a later deploy continues from there.
  - With O(state=removed), also removes the releases, and with O(data=true) the data, the history and the user.
  - Each step can be repeated, so a run completes what an interrupted one has begun.
  - Names that no app of the host has are ignored.
options:
  names:
    description: Names of the apps.
    type: list
    elements: str
  others_than:
    description: All apps of the host except these. Exactly one of O(names) and O(others_than) is required.
    type: list
    elements: str
  state:
    description: Result of the module.
    type: str
    choices: [stopped, removed]
    default: stopped
  data:
    description: With O(state=removed), also delete the data of the apps.
    type: bool
    default: false
  force:
    description: Take the lock of an app also from a run that is still alive.
    type: bool
    default: false
  by:
    description: User and control node of the run, for the history. Set by the action part of this module.
    type: str
    default: ""
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Stop the apps that are no longer in the inventory
  blueoctopus.site.app_removal:
    others_than: [blueoctopus]

- name: Remove an app with its data
  blueoctopus.site.app_removal:
    names: [shop]
    state: removed
    data: true
"""

RETURN = r"""
apps:
  description: The names of the apps that were stopped or removed, or are in check mode.
  returned: success
  type: list
  elements: str
installed:
  description: The names of all apps of the host before the run.
  returned: success
  type: list
  elements: str
"""

import subprocess

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.nginx import NginxError
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import Lock, LockHeld, LockLost
from ansible_collections.blueoctopus.site.plugins.module_utils.release_undo import remove_guards
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases
from ansible_collections.blueoctopus.site.plugins.module_utils.removal import APPS, Removal, installed_apps


def needs_removal(removal: Removal, state: str, data: bool) -> bool:
    """Whether a step is left to do."""
    if removal.runs or state == "stopped":
        return removal.runs
    return any(removal.remaining(data)) or (data and removal.has_account())


def apply(module: AnsibleModule, removal: Removal) -> None:
    """Do all steps, with the lock of the app."""
    params, name = module.params, removal.store.name
    lock = Lock(name)
    if params["state"] == "removed":
        try:
            removal.check(params["data"])
        except OSError as error:
            module.fail_json(msg=f"{name} was not changed: {error}.")
    try:
        token = lock.acquire(params["by"], force=params["force"])
    except LockHeld as error:
        module.fail_json(msg=str(error))
    try:
        with lock.kept(token), lock.work(token):
            removal.stop(params["by"])
            lock.check(token)
            remove_guards(name)
            if params["state"] == "removed":
                removal.remove(params["data"])
            lock.clear(token)  # nothing is left to a guard, which may have been killed
    except (LockLost, NginxError, OSError) as error:
        module.fail_json(msg=f"{name} could not be removed: {error}. Run this again.")
    except subprocess.CalledProcessError as error:
        module.fail_json(msg=f"{name} could not be removed: {error.stderr.strip()}. Run this again.")
    finally:
        lock.free(token)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str"},
            "others_than": {"type": "list", "elements": "str"},
            "state": {"type": "str", "choices": ["stopped", "removed"], "default": "stopped"},
            "data": {"type": "bool", "default": False},
            "force": {"type": "bool", "default": False},
            "by": {"type": "str", "default": ""},
        },
        required_one_of=[("names", "others_than")],
        mutually_exclusive=[("names", "others_than")],
        supports_check_mode=True,
    )
    params, installed = module.params, installed_apps()
    if params["names"] is None:
        chosen = [name for name in installed if name not in params["others_than"]]
    else:
        chosen = [name for name in params["names"] if name in installed]
    removals = [Removal(Releases(name, APPS / name)) for name in chosen]
    due = [removal for removal in removals if needs_removal(removal, params["state"], params["data"])]
    for removal in due:
        if not module.check_mode:
            apply(module, removal)
    apps = [removal.store.name for removal in due]
    module.exit_json(changed=bool(due), apps=apps, installed=installed)


if __name__ == "__main__":
    main()
