#!/usr/bin/python
"""Restore an app from a backup, in steps that run on several hosts at the same time."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_restore
short_description: Restore an app from a backup
description:
  - V(prepare) restores files and database beside the live ones. V(stop) locks the app and stops its units. V(swap)
    renames the former data and gives its names to the restored data. V(start) starts the units and unlocks the app.
  - V(undo) reverts all steps. Data that was live is kept under another name, not deleted.
  - V(prepare) and the steps after it hold the lock of the app. While a step runs, the host renews it. Between two
    steps, while this host waits for others, the control node renews it as long as the run is alive.
options:
  name:
    description: Name of the app.
    type: str
    required: true
  step:
    description: The step.
    type: str
    choices: [prepare, stop, swap, start, undo]
    required: true
  at:
    description: >-
      A time. The newest backup that is not younger is restored, and a database with an archive as of that time; the
      newest backup when empty, and the end of the archive of a lost host.
    type: str
    default: ""
  as_name:
    description: Name of a copy to create beside the live app.
    type: str
    default: ""
  replace:
    description: Whether the data of a live app may be replaced.
    type: bool
    default: false
  target:
    description: Name of the target; the first one when empty.
    type: str
    default: ""
  from_host:
    description: Name of the host whose backup it is; this one when empty.
    type: str
    default: ""
  config:
    description: Folder with the settings and keys for the backups of another host.
    type: str
    default: ""
  stamp:
    description:
      - When the restore began, as V(prepare) has returned it in RV(plan). All other steps need it, and do nothing to
        another restore.
    type: str
  by:
    description: Who restores, for other runs that want to change the app.
    type: str
    default: a restore
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Restore the shop beside the live one
  blueoctopus.site.backup_restore:
    name: shop
    step: prepare
    as_name: shop-copy
"""

RETURN = r"""
plan:
  description:
    - The app, when the restore began in C(stamp), the time of its backup in C(backup), and what was restored in
      C(facts).
  returned: success
  type: dict
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.backup_status import NOT_INSTALLED, PROGRAM
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import Lock, LockLost

UNDO_TIMEOUT = 120  # seconds
PLANS = "/var/lib/backup/restores"


def command(params: dict[str, Any]) -> list[str]:
    """The command of the program that takes the step."""
    words = [PROGRAM, "restore", params["name"], "--json", "--step", params["step"]]
    options = {
        "stamp": "stamp",
        "at": "at",
        "as": "as_name",
        "target": "target",
        "from": "from_host",
        "config": "config",
    }
    words += [f"--{option}={params[key]}" for option, key in options.items() if params.get(key)]
    return words + (["--yes=replace"] if params["replace"] else [])


def stamp_of(name: str) -> str:
    """When the restore of an app began; empty when none has."""
    try:
        with open(f"{PLANS}/{name}.json") as file:
            return str(json.load(file)["stamp"])
    except (OSError, ValueError):
        return ""


@contextlib.contextmanager
def changing(lock: Lock, token: str) -> Iterator[None]:
    """Run the block as the only process that changes the app. The guard of an earlier, interrupted deploy ends."""
    with lock.work(token):
        lock.set_guard(token)
        yield


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "step": {"type": "str", "choices": ["prepare", "stop", "swap", "start", "undo"], "required": True},
            "at": {"type": "str", "default": ""},
            "as_name": {"type": "str", "default": ""},
            "replace": {"type": "bool", "default": False},
            "target": {"type": "str", "default": ""},
            "from_host": {"type": "str", "default": ""},
            "config": {"type": "str", "default": ""},
            "stamp": {"type": "str"},
            "by": {"type": "str", "default": "a restore"},
        },
        required_if=[("step", step, ["stamp"]) for step in ("stop", "swap", "start", "undo")],
        supports_check_mode=True,
    )
    params = module.params
    if not os.access(PROGRAM, os.X_OK):
        module.fail_json(msg=NOT_INSTALLED)
    if module.check_mode:
        module.exit_json(changed=True, plan={"app": params["name"], "stamp": "", "backup": "", "facts": {}})
    if params["step"] == "prepare":
        params["stamp"] = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    lock, token = Lock(params["name"]), f"restore-{params['stamp']}"
    if params["step"] == "undo" and stamp_of(params["name"]) != params["stamp"]:  # it has ended, or never begun
        lock.free(token)
        module.exit_json(changed=False, plan={})
    owner = {"by": params["by"], "since": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())}
    # An undo waits: without it, the app would stay stopped.
    deadline = time.monotonic() + (UNDO_TIMEOUT if params["step"] == "undo" else 0)
    while not lock.take(token, (lock.owner if lock.token == token else None) or owner):
        if time.monotonic() >= deadline:
            by = lock.owner["by"] if lock.owner else "another run"
            said = "The restore was not undone here" if params["step"] == "undo" else "Nothing was changed"
            module.fail_json(msg=f"{params['name']} is being changed by {by}. {said}. Try again when it ends.")
        time.sleep(1)
    try:
        with lock.kept(token), contextlib.nullcontext() if params["step"] == "prepare" else changing(lock, token):
            code, output, error = module.run_command(command(params))
    except LockLost as lost:
        module.fail_json(msg=f"{params['name']}: {lost}")
    has_ended = params["step"] == "undo" or (params["step"] == "start" and not code)
    if has_ended or (params["step"] == "prepare" and (code or params["as_name"])):
        lock.free(token)
    if code:
        module.fail_json(msg=error.strip() or output.strip())
    module.exit_json(changed=True, plan=json.loads(output))


if __name__ == "__main__":
    main()
