#!/usr/bin/python
"""Write a set of configuration files in one step."""

from __future__ import annotations

DOCUMENTATION = r"""
module: config_files
short_description: Write a set of configuration files
description:
  - Writes files that belong to root, each atomically, and creates their parent folders.
  - One call writes all files of a role. M(ansible.builtin.template) needs one call for each file.
options:
  files:
    description: Contents of files by their paths.
    type: dict
    default: {}
  lines:
    description: >-
      Lines to set in existing files, by the paths of the files and, below these, by regular expressions. A line
      replaces the last line that its expression matches. If none matches, it is added at the end.
    type: dict
    default: {}
  programs:
    description: Contents of programs by their paths. Everybody can run them; their mode is 755.
    type: dict
    default: {}
  mode:
    description: Mode of O(files) and O(lines), in octal.
    type: str
    default: "0644"
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Limit the size of the journal
  blueoctopus.site.config_files:
    files:
      /etc/systemd/journald.conf.d/10-size.conf: "{{ lookup('ansible.builtin.template', 'journald.conf.j2') }}"

- name: Forbid to run programs from shared memory
  blueoctopus.site.config_files:
    lines:
      /etc/fstab:
        \s/dev/shm\s: tmpfs /dev/shm tmpfs rw,nosuid,nodev,noexec 0 0
"""

RETURN = r"""
written:
  description: The paths of the files whose content or mode was different.
  returned: success
  type: list
  elements: str
"""

import re
import stat
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.files import difference, read, write


def current_state(path: Path) -> tuple[str, int]:
    """Content and mode of a file; the mode is -1 when it does not exist."""
    return read(path), stat.S_IMODE(path.stat().st_mode) if path.exists() else -1


def with_lines(text: str, lines: dict[str, str]) -> str:
    """A text with the given lines: each replaces the last line that its expression matches, or is added at the end."""
    present = text.splitlines()
    for pattern, line in lines.items():
        found = [number for number, existing in enumerate(present) if re.search(pattern, existing)]
        if found:
            present[found[-1]] = line
        else:
            present.append(line)
    return "".join(f"{line}\n" for line in present)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "dict", "default": {}},
            "lines": {"type": "dict", "default": {}},
            "programs": {"type": "dict", "default": {}},
            "mode": {"type": "str", "default": "0644"},
        },
        supports_check_mode=True,
    )
    mode = int(module.params["mode"], 8)
    wanted = {Path(path): (str(content), mode) for path, content in module.params["files"].items()}
    for path, lines in module.params["lines"].items():
        wanted[Path(path)] = with_lines(read(Path(path)), lines), mode
    wanted |= {Path(path): (str(content), 0o755) for path, content in module.params["programs"].items()}
    before = {path: current_state(path) for path in wanted}
    written = [path for path in wanted if before[path] != wanted[path]]
    if not module.check_mode:
        for path in written:
            write(path, *wanted[path])
    diff = [difference(path, before[path][0], wanted[path][0]) for path in written]
    module.exit_json(changed=bool(written), written=[str(path) for path in written], diff=diff)


if __name__ == "__main__":
    main()
