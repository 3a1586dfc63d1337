#!/usr/bin/python
"""Back up apps now, restore them for a check, or delete old backups."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_run
short_description: Back up apps now
description:
  - Starts the units of the role C(backup), waits until they end, and reads their results.
options:
  app:
    description: Name of an app; all apps of the host when empty.
    type: str
    default: ""
  operation:
    description: >-
      V(backup), V(drill) restores the newest backups into temporary places and checks them, V(check) checks the
      repositories, V(prune) deletes the backups that are no longer kept.
    type: str
    choices: [backup, drill, check, prune]
    default: backup
  only_first:
    description: >-
      Do nothing if the host has made backups already, or if a target has backups of a host of its name. Those are of a
      host that this one replaces, and the data of this one is not restored yet.
    type: bool
    default: false
  new_archive:
    description: Whether a host that has made backups has a new archive of PostgreSQL, which O(only_first) saves.
    type: bool
    default: false
  config:
    description: Folder with the settings and keys for a V(prune), instead of C(/etc/backup).
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
- name: Back up the shop
  blueoctopus.site.backup_run:
    app: shop
  register: backup
"""

RETURN = r"""
lines:
  description: The results, one line each.
  returned: success
  type: list
  elements: str
problems:
  description: What failed.
  returned: always
  type: list
  elements: str
"""

import json
import os
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.backup_status import (
    NOT_INSTALLED,
    PROGRAM,
    SETTINGS,
    read_json,
    read_status,
    size,
)


def backup_lines(status: dict[str, Any], since: float) -> tuple[list[str], list[str]]:
    """The backups since a time, and those that failed."""
    lines, problems = [], []
    for app, targets in sorted(status["backups"].items()):
        for target, entry in sorted(targets.items()):
            if entry.get("error") and entry.get("failed", 0) >= since:
                problems.append(f"{app} to {target}: {entry['error']}")
            elif entry.get("time", 0) >= since:
                lines.append(
                    f"{app} to {target}: {size(entry['size'])}, {size(entry['added'])} new, {entry['seconds']} s"
                )
    return lines, problems


def drill_lines(status: dict[str, Any], since: float) -> tuple[list[str], list[str]]:
    """The drills since a time, and those that failed."""
    lines, problems = [], []
    for app, entry in sorted(status["drills"].items()):
        if entry.get("time", 0) < since:
            continue
        if entry["error"]:
            problems.append(f"{app} from {entry['target']}: {entry['error']}")
            continue
        found = ", ".join(
            f"{entry[key]} {key}" for key in ("files", "sqlite", "tables", "rows", "keys") if key in entry
        )
        lines.append(f"{app} from {entry['target']}: {found}, {size(entry['size'])}, {entry['seconds']} s")
        lines += [f"  {entry['note']}"] if entry.get("note") else []
    return lines, problems


def target_has_backups(module: AnsibleModule) -> bool:
    """Whether a target has backups of this host; one without a repository has none.

    When a target can't be asked, the module ends with that problem: its backups may be those of a lost host.
    """
    for target in read_json(SETTINGS)["targets"]:
        code, output, error = module.run_command([PROGRAM, "list", "--target", target["name"], "--json"])
        if not code and json.loads(output):
            return True
        if code and "no repository" not in output + error:
            module.exit_json(changed=False, lines=[], problems=[(error or output).strip()])
    return False


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "default": ""},
            "operation": {"type": "str", "choices": ["backup", "drill", "check", "prune"], "default": "backup"},
            "only_first": {"type": "bool", "default": False},
            "new_archive": {"type": "bool", "default": False},
            "config": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    operation = params["operation"]
    if not os.access(PROGRAM, os.X_OK) or not SETTINGS.exists():
        if module.check_mode:
            module.exit_json(changed=True, lines=[], problems=[])
        module.fail_json(msg=NOT_INSTALLED, problems=[])
    made = bool(read_status()["backups"])
    if params["only_first"] and (not params["new_archive"] if made else target_has_backups(module)):
        module.exit_json(changed=False, lines=[], problems=[])
    if module.check_mode:
        module.exit_json(changed=True, lines=[], problems=[])
    if operation in ("check", "prune"):
        config = ["--config", params["config"]] if params["config"] else []
        code, output, error = module.run_command([PROGRAM, operation, *config])
        problems = [error.strip()] if code else []
        module.exit_json(changed=operation == "prune", lines=output.splitlines(), problems=problems)
    begun = int(time.time())
    unit = f"{'backup' if operation == 'backup' else 'backup-drill'}@{params['app'] or 'all'}.service"
    code = module.run_command(["systemctl", "start", unit])[0]
    lines, problems = (backup_lines if operation == "backup" else drill_lines)(read_status(), begun)
    if code and not problems:
        journal = ["journalctl", "--quiet", "--no-pager", "--output=json", f"--since=@{begun}", f"--unit={unit}"]
        said = [str(json.loads(entry).get("MESSAGE", "")) for entry in module.run_command(journal)[1].splitlines()]
        problems = ["\n".join(said[-8:]) or f"{unit} failed"]
    module.exit_json(changed=True, lines=lines, problems=problems)


if __name__ == "__main__":
    main()
