#!/usr/bin/python
"""See to it that one deploy or rollback of an app is under way at a time."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_lock
short_description: Take an app's deploy lock
description:
  - Takes the lock that M(release_switch) gives back, when it is done or has failed; so do M(release_build) and
    M(release_command) when they fail.
  - A lock is stale when the run that took it, on the same control node, has died, or when it is an hour old. It is then
    taken over.
  - Makes the app's folders, where they aren't there.
options:
  name:
    description: Name of the app, its user and its group.
    type: str
    required: true
  root:
    description: Folder of the app.
    type: path
    required: true
  take_over:
    description: Take the lock although somebody else seems to be at it.
    type: bool
    default: false
  holder:
    description: Who takes it. Set by the action part of this module.
    type: dict
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Deploy one at a time
  release_lock:
    name: blueoctopus
    root: /srv/blueoctopus
"""

RETURN = r"""
by:
  description: Who deploys, as USER@COMPUTER.
  returned: success
  type: str
locked_by:
  description: Who is deploying this app already.
  returned: when somebody is
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.releases import Releases


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "take_over": {"type": "bool", "default": False},
            "holder": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    holder = module.params["holder"]
    if module.check_mode:
        module.exit_json(changed=False, by=holder["by"])
    store = Releases(module.params["name"], module.params["root"])
    store.make_folders()
    other = store.lock(holder, module.params["take_over"])
    # A lock is no change of the host: it is gone when the run is over.
    module.exit_json(changed=False, by=holder["by"], **({"locked_by": other} if other else {}))


if __name__ == "__main__":
    main()
