#!/usr/bin/python
"""Create the password and the SSH key of a host's backups."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_keys
short_description: Create the password and the SSH key of a host's backups
description:
  - Generates a password, unless one is given, and an SSH key, in a folder that only root can read. Existing ones are
    kept.
options:
  password:
    description: >-
      The password. It must be the one that the host has already, if it has one. One is generated when it is empty.
    type: str
    default: ""
  folder:
    description: Folder of the files C(password), C(ssh_key) and C(ssh_key.pub).
    type: path
    default: /etc/backup
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Create the password and the SSH key
  blueoctopus.site.backup_keys:
  register: keys
"""

RETURN = r"""
public_key:
  description: The public SSH key; empty in check mode before there is one.
  returned: success
  type: str
new_password:
  description: The password that was generated now, to be shown once; empty otherwise.
  returned: success
  type: str
"""

import secrets
import socket
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.files import read, write

# Letters and digits that are not mistaken for each other, in groups: it may be written down by hand.
LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
GROUPS = 6
GROUP = 5  # letters; 148 bits in all


def new_password() -> str:
    """A password that is as hard to guess as a key of 148 bits."""
    return "-".join("".join(secrets.choice(LETTERS) for _ in range(GROUP)) for _ in range(GROUPS))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "password": {"type": "str", "default": "", "no_log": True},
            "folder": {"type": "path", "default": "/etc/backup"},
        },
        supports_check_mode=True,
    )
    folder, given = Path(module.params["folder"]), module.params["password"]
    stored = read(folder / "password").strip()
    if stored and given and stored != given:
        module.fail_json(
            msg="backup_password differs from the password of the existing backups. Nothing was changed.\n"
            f"Set it to that password, or leave it empty to keep it: sudo cat {folder}/password. To start new "
            f"repositories with another password, move {folder}/password away on the host, and the repositories on the "
            "targets."
        )
    generated = "" if stored or given else new_password()
    key = folder / "ssh_key"
    changed = not stored or not key.exists()
    if module.check_mode:
        module.exit_json(changed=changed, public_key=read(Path(f"{key}.pub")).strip(), new_password="")
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    if not stored:
        write(folder / "password", (given or generated) + "\n", 0o600)
    if not key.exists():
        comment = f"backups of {socket.gethostname()}"
        module.run_command(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(key)], check_rc=True
        )
    module.exit_json(changed=changed, public_key=read(Path(f"{key}.pub")).strip(), new_password=generated)


if __name__ == "__main__":
    main()
