#!/usr/bin/python
"""Stop the units of a role that is no longer used, and remove its files."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_removal
short_description: Stop units and remove their files
description:
  - Stops and disables systemd units, if they exist, and removes files and folders.
  - An interrupted removal is completed by the next run.
options:
  units:
    description: Names of the units, in the order in which they are stopped.
    type: list
    elements: str
    required: true
  paths:
    description: Files and folders to remove, with their content.
    type: list
    elements: path
    required: true
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Remove the alerts
  blueoctopus.site.service_removal:
    units: [alert.timer, alert.service]
    paths: [/etc/systemd/system/alert.timer, /etc/systemd/system/alert.service, /etc/alert]
"""

RETURN = r"""
removed:
  description: The units that existed, and the paths that were removed.
  returned: success
  type: list
  elements: str
"""

import os
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

STOPPED = ("inactive", "failed")


def ending(module: AnsibleModule, unit: str) -> list[str]:
    """The command of systemctl that ends a unit; empty if there is no such unit."""
    _rc, shown, _err = module.run_command(["systemctl", "show", "--property=LoadState,ActiveState", unit])
    state = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    if state.get("LoadState") == "loaded":
        return ["disable", "--now", "--quiet"]
    return ["stop"] if state.get("ActiveState", "inactive") not in STOPPED else []  # it runs without its file


def remove(path: Path) -> None:
    """Remove a file, a link or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "units": {"type": "list", "elements": "str", "required": True},
            "paths": {"type": "list", "elements": "path", "required": True},
        },
        supports_check_mode=True,
    )
    ends = {unit: command for unit in module.params["units"] if (command := ending(module, unit))}
    paths = [path for path in module.params["paths"] if os.path.lexists(path)]
    if not module.check_mode:
        commands = [[*command, unit] for unit, command in ends.items()]
        for command in commands:
            rc, _out, err = module.run_command(["systemctl", *command])
            if rc:
                module.fail_json(msg=f"{command[-1]} could not be stopped: {err.strip()}. Its files were not removed.")
        for path in paths:
            remove(Path(path))
        if ends:
            module.run_command(["systemctl", "daemon-reload"])
    module.exit_json(changed=bool(ends or paths), removed=[*ends, *paths])


if __name__ == "__main__":
    main()
