#!/usr/bin/python
"""Create the administrator's account, with its SSH keys and sudo rule."""

from __future__ import annotations

DOCUMENTATION = r"""
module: admin_account
short_description: Create the administrator's account
description:
  - Creates a user who can log in only with SSH keys, and who may run everything with sudo.
  - A new user has no password, so sudo asks for none. An existing user whose sudo asks for a password keeps that,
    unless O(passwordless_sudo) is set.
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
  passwordless_sudo:
    description: Allow sudo without a password, also to an existing user whose sudo asks for one.
    type: bool
    default: false
  sudo_password_given:
    description: >-
      Whether this run has the user's password for sudo. Without it, the module fails instead of leaving a user whose
      sudo asks for a password.
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
sudo_password:
  description: Whether sudo asks the user for a password.
  returned: success
  type: bool
token:
  description: >-
    The value for O(blueoctopus.site.confirm_access#module:token), which confirms this change, or an earlier one that is
    not confirmed yet; empty without such a change, and in check mode.
  returned: success
  type: str
  sample: 0f3a9c51d2b7e846
"""

import os
import pwd
import re
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.files import difference, read, write
from ansible_collections.blueoctopus.site.plugins.module_utils.lockout import arm, restart_undo_timer

SUDOERS = Path("/etc/sudoers.d/10-administrator")
SHADOW = Path("/etc/shadow")
HEADER = "# Ansible managed\n"
KEY = re.compile(r"\b((?:ssh|ecdsa|sk)-\S+ AAAA[\w+/]+=*)[^\S\n]*(.*)$", re.MULTILINE)

# Rules in the output of sudo -l: one that allows every command as root, and the rule that this module writes.
EVERYTHING = re.compile(r"\((?:ALL|root)(?: : \w+)?\) (?:[A-Z]+: )*ALL$")
OWN_RULE = "(ALL : ALL) NOPASSWD: ALL"


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


def asks_for_password(listing: str, own: bool) -> bool:
    """Whether a user may run everything with sudo, but only with a password.

    Args:
        listing: the output of sudo -l for the user.
        own: whether the rule of this module is one of the rules; it is ignored.
    """
    rules = [line.strip() for line in listing.splitlines() if EVERYTHING.match(line.strip())]
    if own and OWN_RULE in rules:
        rules.remove(OWN_RULE)
    return bool(rules) and "NOPASSWD: " not in rules[-1] and "!authenticate" not in listing  # the last rule applies


def has_password(name: str) -> bool:
    """Whether a user can have a password: false for a locked one. Users of other directories are not in the file."""
    return not re.search(rf"^{re.escape(name)}:[!*]", read(SHADOW), re.MULTILINE)


def keeps_password(module: AnsibleModule, rule: str) -> bool:
    """Whether sudo asks this user for a password, and shall continue to do so."""
    name, sudo = module.params["name"], module.get_bin_path("sudo")
    if module.params["passwordless_sudo"] or home_of(name) is None or not has_password(name) or not sudo:
        return False
    _rc, listing, _err = module.run_command([sudo, "-l", "-U", name], environ_update={"LC_ALL": "C"})
    return asks_for_password(listing, own=read(SUDOERS) == rule)


def sudo_rule(name: str) -> str:
    """The file that allows a user to run every command with sudo, without a password."""
    return f"{HEADER}{name} ALL=(ALL:ALL) NOPASSWD: ALL\n"


def validate(module: AnsibleModule, rule: str) -> None:
    """Validate a rule for sudo before it is written: with an invalid one, sudo could refuse to run."""
    visudo = module.get_bin_path("visudo", required=not module.check_mode)
    if not visudo:
        return
    with tempfile.NamedTemporaryFile("w") as candidate:
        candidate.write(rule)
        candidate.flush()
        rc, out, err = module.run_command([visudo, "--check", f"--file={candidate.name}"])
    if rc:
        module.fail_json(msg=f"visudo rejects the rule for sudo. Nothing was changed.\n{rule}{out}{err}".strip())


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
            "passwordless_sudo": {"type": "bool", "default": False, "no_log": False},
            "sudo_password_given": {"type": "bool", "default": False, "no_log": False},
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
    rule = sudo_rule(name)
    keeps = keeps_password(module, rule)
    if keeps and not module.params["sudo_password_given"]:
        module.fail_json(
            msg=f"sudo asks {name} for a password, and this run has none. Add --ask-become-pass, or set "
            f"admin_passwordless_sudo: true, which allows {name} to use sudo without a password. Nothing was changed."
        )
    sudoers = "" if keeps else rule
    files = {path: (present, wanted), SUDOERS: (read(SUDOERS), sudoers)}
    changed = home is None or any(before != after for before, after in files.values())
    diff = [difference(file, before, after) for file, (before, after) in files.items() if before != after]
    allowed = [f"{key} {comment}".strip() for key, comment in keys.items()]
    result = {"changed": changed, "allowed_keys": allowed, "sudo_password": keeps, "diff": diff}
    if sudoers and changed:
        validate(module, sudoers)
    if module.check_mode:
        module.exit_json(**result, token="")
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
        if sudoers:
            write(SUDOERS, sudoers, 0o440)
        else:
            SUDOERS.unlink(missing_ok=True)
    module.exit_json(**result, token=token)


if __name__ == "__main__":
    main()
