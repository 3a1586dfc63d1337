#!/usr/bin/python
"""Write a set of configuration files in one step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: config_files
short_description: Write a set of configuration files
description:
  - Writes files that belong to root, each in one step, and makes the folders that they need.
  - One call for all files of a role, which would be one for each with M(ansible.builtin.template).
options:
  files:
    description: Contents of files by their paths.
    type: dict
    required: true
  mode:
    description: Mode of all of them, in octal.
    type: str
    default: "0644"
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Bound the journal
  config_files:
    files:
      /etc/systemd/journald.conf.d/10-size.conf: "{{ lookup('ansible.builtin.template', 'journald.conf.j2') }}"
"""

RETURN = r"""
written:
  description: The paths of files that were not as they should be.
  returned: success
  type: list
  elements: str
"""

import stat
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.files import difference, read, write


def as_it_is(path: Path) -> tuple[str, int]:
    """Content and mode of a file; the mode is -1 when there is none."""
    return read(path), stat.S_IMODE(path.stat().st_mode) if path.exists() else -1


def main() -> None:
    module = AnsibleModule(
        argument_spec={"files": {"type": "dict", "required": True}, "mode": {"type": "str", "default": "0644"}},
        supports_check_mode=True,
    )
    mode = int(module.params["mode"], 8)
    files = {Path(path): str(content) for path, content in module.params["files"].items()}
    before = {path: as_it_is(path) for path in files}
    written = [path for path, content in files.items() if before[path] != (content, mode)]
    if not module.check_mode:
        for path in written:
            write(path, files[path], mode)
    diff = [difference(path, before[path][0], files[path]) for path in written]
    module.exit_json(changed=bool(written), written=[str(path) for path in written], diff=diff)


if __name__ == "__main__":
    main()
