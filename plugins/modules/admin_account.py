#!/usr/bin/python
"""Create the administrator's account, with its SSH keys and sudo rule."""

from __future__ import annotations

DOCUMENTATION = r"""
module: admin_account
short_description: Create the administrator's account
description:
  - Creates a user who can log in only with SSH keys, and who may run everything with sudo.
  - The account gets exactly the given keys. An authorized_keys file that this module did not write is replaced only
    when all its keys are among them.
  - The host undoes a change after a minute unless M(blueoctopus.site.confirm_access) confirms it.
options:
  name:
    description: Name of the user.
    type: str
    required: true
  keys:
    description: >-
      The public keys that may log in, as lines of an authorized_keys file. When the list is empty, a user without
      keys gets those of the current login user.
    type: list
    elements: str
    default: []
  replace_keys:
    description: Remove keys of this user that are not in O(keys), even when this module did not add them.
    type: bool
    default: false
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Create the administrator
  blueoctopus.site.admin_account:
    name: admin
    keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample somebody@laptop"]
"""

RETURN = r"""
allowed_keys:
  description: The keys that may log in.
  returned: success
  type: list
  elements: str
"""

import os
import pwd
import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.files import difference, read, write
from ansible_collections.blueoctopus.site.plugins.module_utils.lockout import arm, restart_undo_timer

SUDOERS = Path("/etc/sudoers.d/10-administrator")
HEADER = "# Ansible managed\n"
KEY = re.compile(r"\b((?:ssh|ecdsa|sk)-\S+ AAAA[\w+/]+=*)[^\S\n]*(.*)$", re.MULTILINE)


def keys_in(text: str, unrestricted: bool = False) -> dict[str, str]:
    """The keys of an authorized_keys file, each with its comment; on request only those without options."""
    lines = [line.strip() for line in text.splitlines() if not line.lstrip().startswith("#")]
    lines = [line for line in lines if not unrestricted or KEY.match(line)]
    return {found[1]: found[2].strip() for line in lines if (found := KEY.search(line))}


def home_of(user: str) -> Path | None:
    """A user's home; None when the user does not exist."""
    try:
        return Path(pwd.getpwnam(user).pw_dir)
    except KeyError:
        return None


def choose(module: AnsibleModule, present: str) -> dict[str, str]:
    """The keys for the user. Fails when there are none, or when the user has other keys that must not be removed."""
    name = module.params["name"]
    given, existing = keys_in("\n".join(module.params["keys"])), keys_in(present)
    if not given and existing:
        return existing
    if not given:
        login = os.environ.get("SUDO_USER", "root")
        given = keys_in(read((home_of(login) or Path("/root")) / ".ssh/authorized_keys"), unrestricted=True)
        if not given:
            module.fail_json(
                msg=f"Nobody could log in as {name}: admin_keys is empty, and {login} has no unrestricted keys to "
                "copy. Set admin_keys to the public keys of the administrators. Nothing was changed."
            )
    foreign = {key: comment for key, comment in existing.items() if key not in given}
    if foreign and not present.startswith(HEADER) and not module.params["replace_keys"]:
        shown = "".join(f"\n  {key[:30]}…{key[-12:]} {comment}" for key, comment in foreign.items())
        module.fail_json(
            msg=f"The user {name} already exists, with keys that are not in admin_keys:{shown}\n"
            "Add them to admin_keys, set another admin_user, or remove them with admin_replace_keys: true. "
            "Nothing was changed."
        )
    return given


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "replace_keys": {"type": "bool", "default": False, "no_log": False},
        },
        supports_check_mode=True,
    )
    name = module.params["name"]
    home = home_of(name)
    path = (home or Path("/home") / name) / ".ssh/authorized_keys"
    present = read(path)
    keys = choose(module, present)
    wanted = HEADER + "".join(f"{key} {comment}".strip() + "\n" for key, comment in keys.items())
    if not module.params["keys"] and keys_in(present):
        wanted = present
    sudoers = f"{HEADER}{name} ALL=(ALL:ALL) NOPASSWD: ALL\n"
    files = {path: (present, wanted), SUDOERS: (read(SUDOERS), sudoers)}
    changed = home is None or any(before != after for before, after in files.values())
    diff = [difference(file, before, after) for file, (before, after) in files.items() if before != after]
    allowed = [f"{key} {comment}".strip() for key, comment in keys.items()]
    result = {"changed": changed, "allowed_keys": allowed, "diff": diff}
    if module.check_mode:
        module.exit_json(**result)
    token = restart_undo_timer()
    if changed:
        if home is None:
            settings = ["--create-home", "--user-group", "--shell", "/bin/bash", "--password", "*"]
            module.run_command(["useradd", *settings, name], check_rc=True)
        token = arm(path)
        user = pwd.getpwnam(name)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write(path, wanted, 0o600)
        for owned in (path.parent, path):
            os.chown(owned, user.pw_uid, user.pw_gid)
        write(SUDOERS, sudoers, 0o440)
        module.run_command(["visudo", "--check", "--quiet"], check_rc=True)
    module.exit_json(**result, **({"ansible_facts": {"unconfirmed_access": token}} if token else {}))


if __name__ == "__main__":
    main()
