#!/usr/bin/python
"""Make the account that administers the host: its keys, and what sudo lets it do."""

from __future__ import annotations

DOCUMENTATION = r"""
module: admin_account
short_description: Make the account that administers the host
description:
  - Makes a user who logs in by SSH keys alone and may do anything with sudo.
  - The keys are exactly the given ones. A file of keys that this module did not write is only replaced when all its
    keys are among them.
  - A change undoes itself after a minute unless M(blueoctopus.site.confirm_access) gets in.
options:
  name:
    description: Name of the user.
    type: str
    required: true
  keys:
    description: >-
      The public keys that may log in, as they stand in an authorized_keys file. When there are none, a user without
      keys gets those of the user who is logged in right now.
    type: list
    elements: str
    default: []
  replace_keys:
    description: Remove keys that somebody else gave to this user.
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
- name: Make the administrator
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
    """The keys of an authorized_keys file: type and key, and the comment of each; only those without options, if so."""
    lines = [line.strip() for line in text.splitlines() if not line.lstrip().startswith("#")]
    lines = [line for line in lines if not unrestricted or KEY.match(line)]
    return {found[1]: found[2].strip() for line in lines if (found := KEY.search(line))}


def home_of(user: str) -> Path | None:
    """A user's home; None when there is no such user."""
    try:
        return Path(pwd.getpwnam(user).pw_dir)
    except KeyError:
        return None


def choose(module: AnsibleModule, present: str) -> dict[str, str]:
    """The keys that the user shall have; fails when there are none, or others that nobody said to remove."""
    name = module.params["name"]
    given, there = keys_in("\n".join(module.params["keys"])), keys_in(present)
    if not given and there:
        return there
    if not given:
        login = os.environ.get("SUDO_USER", "root")
        given = keys_in(read((home_of(login) or Path("/root")) / ".ssh/authorized_keys"), unrestricted=True)
        if not given:
            module.fail_json(
                msg=f"Nobody could log in as {name}: admin_keys is empty, and {login} has no keys without restrictions "
                "to take over. Set admin_keys to the public keys of the administrators. Nothing was changed."
            )
    foreign = {key: comment for key, comment in there.items() if key not in given}
    if foreign and not present.startswith(HEADER) and not module.params["replace_keys"]:
        shown = "".join(f"\n  {key[:30]}…{key[-12:]} {comment}" for key, comment in foreign.items())
        module.fail_json(
            msg=f"{name} is there already, with keys that are not in admin_keys:{shown}\n"
            "Add them to admin_keys, choose another admin_user, or let them go with admin_replace_keys: true. "
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
    # Keys that nobody named stay as they are written.
    stay = not module.params["keys"] and bool(keys_in(present))
    wanted = present if stay else HEADER + "".join(f"{key} {comment}".strip() + "\n" for key, comment in keys.items())
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
