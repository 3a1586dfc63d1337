#!/usr/bin/python
"""Give hosts access to their repositories on a host that keeps backups."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_access
short_description: Give hosts access to their repositories
description:
  - Writes the file C(authorized_keys) of the account that keeps backups. sshd allows each key one thing only - to talk
    to rclone, which serves the repository of that host to restic, or to the store for its WAL. It can add and read, but
    not delete.
  - Keys of hosts that are not named are kept.
options:
  clients:
    description: Name and SSH key of each host.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the host, and of its repository.
        type: str
        required: true
      key:
        description: Public key.
        type: str
        required: true
  purpose:
    description: >-
      V(backups) for the hosts' own keys. V(restore) and V(prune) give a further key access to the repository for
      O(minutes); V(prune) may also delete.
    type: str
    choices: [backups, restore, prune]
    default: backups
  minutes:
    description: How long a key for a V(restore) or a V(prune) is valid.
    type: int
    default: 720
  state:
    description: V(absent) removes the keys that have this purpose.
    type: str
    choices: [present, absent]
    default: present
  home:
    description: Home of the account.
    type: path
    default: /srv/backups
  user:
    description: The account.
    type: str
    default: backups-store
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Allow the webserver to add backups
  blueoctopus.site.backup_access:
    clients:
      - name: web1
        key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI
"""

RETURN = r"""# """

import re
import shutil
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.files import difference, read, write

KEY = re.compile(r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp\d+) [A-Za-z0-9+/=]+")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
STORE = "/usr/local/lib/backup/store.py"
HEADER = "# Ansible writes this file.\n"


def mark(purpose: str, name: str) -> str:
    """The comment of a key, by which its line is found again."""
    return f"{purpose} {name}"


def line(name: str, key: str, purpose: str, folder: Path, expires: float) -> str:
    """A line of authorized_keys.

    Args:
        name: name of the host.
        key: its public key, perhaps with a comment.
        purpose: see the module's options.
        folder: home of the account, with the folders of the repositories and of the WAL.
        expires: when the key is no longer valid, in seconds since 1970; 0 for never.

    Raises:
        ValueError: when the name or the key is not one.
    """
    found = KEY.match(key)
    if not NAME.fullmatch(name) or not found:
        raise ValueError(f"not a host with a public key: {name!r}, {key[:40]!r}")
    append_only = "" if purpose == "prune" else "--append-only "
    rclone = f"/usr/bin/rclone --config /dev/null serve restic --stdio {append_only}{folder / 'repositories' / name}"
    store = f"/usr/bin/python3 -IB {STORE} {append_only}{folder / 'archives' / name}"
    # The shell of the account runs it. The words of the client choose between the two, and reach no command line.
    command = f"case $SSH_ORIGINAL_COMMAND in archive*) exec {store};; *) exec {rclone};; esac"
    options = f'restrict,command="{command}"'
    if expires:
        options += f',expiry-time="{time.strftime("%Y%m%d%H%M", time.localtime(expires))}"'
    return f"{options} {found[0]} {mark(purpose, name)}\n"


def main() -> None:
    client = {
        "name": {"type": "str", "required": True},
        "key": {"type": "str", "required": True, "no_log": False},
    }
    module = AnsibleModule(
        argument_spec={
            "clients": {"type": "list", "elements": "dict", "required": True, "options": client},
            "purpose": {"type": "str", "choices": ["backups", "restore", "prune"], "default": "backups"},
            "minutes": {"type": "int", "default": 720},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "home": {"type": "path", "default": "/srv/backups"},
            "user": {"type": "str", "default": "backups-store"},
        },
        supports_check_mode=True,
    )
    params: dict[str, Any] = module.params
    home = Path(params["home"])
    path = home / ".ssh/authorized_keys"
    folders = [home / "repositories", home / "archives"]
    before = read(path)
    marks = [mark(params["purpose"], client["name"]) for client in params["clients"]]
    lines = [
        one
        for one in before.splitlines(keepends=True)
        if one != HEADER and not any(one.rstrip("\n").endswith(f" {found}") for found in marks)
    ]
    expires = 0.0 if params["purpose"] == "backups" else time.time() + params["minutes"] * 60
    if params["state"] == "present":
        try:
            lines += [
                line(client["name"], client["key"], params["purpose"], home, expires) for client in params["clients"]
            ]
        except ValueError as error:
            module.fail_json(msg=str(error))
    after = HEADER + "".join(sorted(lines))
    changed = after != before or not all(folder.is_dir() for folder in folders)
    if changed and not module.check_mode:
        home.mkdir(mode=0o755, exist_ok=True)
        for folder in folders:
            folder.mkdir(mode=0o700, exist_ok=True)
            shutil.chown(folder, params["user"], params["user"])
        # The account can read its keys, and root alone can change them.
        write(path, after, 0o644)
    module.exit_json(changed=changed, diff=difference(path, before, after))


if __name__ == "__main__":
    main()
