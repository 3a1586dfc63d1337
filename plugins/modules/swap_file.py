#!/usr/bin/python
"""Create a swap file on a host with little memory."""

from __future__ import annotations

DOCUMENTATION = r"""
module: swap_file
short_description: Create a swap file on a host with little memory
description:
  - Creates C(/swapfile) and a systemd unit for it when the host has less memory than O(below), and no swap.
  - Does not change containers, which share the swap of their host, and hosts that already have swap.
options:
  size:
    description: MiB of swap; V(0) for no swap file.
    type: int
    default: 1024
  below:
    description: MiB of memory below which a host gets a swap file.
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
- name: Create a swap file on a small host
  blueoctopus.site.swap_file:
    size: 1024
"""

RETURN = r"""
reason:
  description: Why no swap file was created.
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
Description=Swap for a host with little memory

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
    memory = mebibytes("MemTotal")
    if not size:
        module.exit_json(changed=False, reason="the size is 0")
    if memory >= below:
        module.exit_json(changed=False, reason=f"the host has enough memory: {memory} MiB")
    if module.run_command(["systemd-detect-virt", "--quiet", "--container"])[0] == 0:
        module.exit_json(changed=False, reason="a container shares the swap of its host")
    if mebibytes("SwapTotal"):
        module.exit_json(changed=False, reason="the host already has swap")
    free = shutil.disk_usage("/").free // 2**20
    if free < 2 * size:
        module.fail_json(
            msg=f"A swap file of {size} MiB would use more than half of the {free} MiB of free disk space. Free some "
            "space, or set base_swap_size to a smaller value, or to 0 for no swap file. Nothing was changed."
        )
    if not module.check_mode:
        write(FILE, "", 0o600)
        write(UNIT, UNIT_TEXT)
        # dd writes every block: swap needs a file without holes.
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
                module.fail_json(
                    msg=f"The swap file could not be created: {err.strip()}. To run without one, set base_swap_size: 0."
                )
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
