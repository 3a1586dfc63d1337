#!/usr/bin/python
"""Give a machine with little memory a swap file."""

from __future__ import annotations

DOCUMENTATION = r"""
module: swap_file
short_description: Give a machine with little memory a swap file
description:
  - Makes C(/swapfile) and a systemd unit for it where the machine has less memory than O(below), and no swap.
  - Containers, whose swap is not their own, and machines that have swap already, are left as they are.
options:
  size:
    description: MiB of swap; V(0) makes none.
    type: int
    default: 1024
  below:
    description: MiB of memory below which a machine gets swap.
    type: int
    default: 2100
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Give a small machine swap
  blueoctopus.site.swap_file:
    size: 1024
"""

RETURN = r"""
reason:
  description: Why nothing was to be done.
  returned: when not changed
  type: str
"""

import re
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.files import write

FILE = Path("/swapfile")
UNIT = Path("/etc/systemd/system/swapfile.swap")
UNIT_TEXT = """# Ansible managed
[Unit]
Description=Swap for a machine with little memory

[Swap]
What=/swapfile

[Install]
WantedBy=swap.target
"""


def mebibytes(name: str) -> int:
    """A value of /proc/meminfo, in MiB."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) // 1024 if found else 0


def main() -> None:
    module = AnsibleModule(
        argument_spec={"size": {"type": "int", "default": 1024}, "below": {"type": "int", "default": 2100}},
        supports_check_mode=True,
    )
    size, below = module.params["size"], module.params["below"]
    has = mebibytes("MemTotal")
    if not size or has >= below:
        module.exit_json(changed=False, reason=f"{has} MiB of memory do without")
    if module.run_command(["systemd-detect-virt", "--quiet", "--container"])[0] == 0:
        module.exit_json(changed=False, reason="a container has the swap of its host")
    if mebibytes("SwapTotal"):
        module.exit_json(changed=False, reason="there is swap")
    free = shutil.disk_usage("/").free // 2**20
    if free < 2 * size:
        module.fail_json(
            msg=f"Swap of {size} MiB would take most of the {free} MiB that are free. Make room, or set base_swap_size "
            "to less, or to 0 for none. Nothing was changed."
        )
    if not module.check_mode:
        write(FILE, "", 0o600)
        write(UNIT, UNIT_TEXT)
        # Written, not only reserved: swap needs a file without holes on every file system.
        for command in (
            ["dd", "if=/dev/zero", f"of={FILE}", "bs=1M", f"count={size}", "conv=notrunc", "status=none"],
            ["mkswap", str(FILE)],
            ["systemctl", "daemon-reload"],
            ["systemctl", "enable", "--now", "--quiet", "swapfile.swap"],
        ):
            rc, _out, err = module.run_command(command)
            if rc:
                FILE.unlink(missing_ok=True)
                UNIT.unlink(missing_ok=True)
                module.fail_json(msg=f"The machine takes no swap file: {err.strip()}. base_swap_size: 0 does without.")
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
