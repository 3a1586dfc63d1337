"""Check the files in group_vars and host_vars before Ansible reads them."""

from __future__ import annotations

DOCUMENTATION = r"""
name: inventory_files
short_description: Check the files in group_vars and host_vars before Ansible reads them
description:
  - Sets no variables. Runs when the inventory is loaded, before the first play.
  - Fails if a group or a host has several files or folders of variables in one folder, as Ansible reads only one of
    them. C(group_vars/webservers/) beside C(group_vars/webservers.yml) is an example.
  - Fails if a file is encrypted with ansible-vault and can't be decrypted. The error names the file and says how to
    pass the password.
  - Fails if a file C(vault.yml) is not encrypted.
options:
  stage:
    description: When the plugin runs. Ansible reads the files later, when a task needs their variables.
    type: str
    choices: [all, task, inventory]
    default: inventory
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.inventory.host import Host
from ansible.parsing.vault import AnsibleVaultError, is_encrypted_file
from ansible.plugins.vars import BaseVarsPlugin

# What Ansible reads for a name: the first that exists, in this order.
SUFFIXES = ("", ".yml", ".yaml", ".json")


class VarsModule(BaseVarsPlugin):
    """A vars plugin without variables, as Ansible offers no other place to check these files this early."""

    is_stateless = True

    def get_vars(self, loader: Any, path: str, entities: Any, cache: bool = True) -> dict[str, Any]:
        del cache
        for entity in entities if isinstance(entities, list) else [entities]:
            if entity.name.startswith("/"):  # the path of a chroot; Ansible reads no variables for it
                continue
            place = Path(path) / ("host_vars" if isinstance(entity, Host) else "group_vars") / entity.name
            found = [file for suffix in SUFFIXES if (file := place.with_name(entity.name + suffix)).exists()]
            if len(found) > 1:
                raise AnsibleError(several(place, found))
            for file in files(found):
                check_password(loader, file)
        return {}


def several(place: Path, found: list[Path]) -> str:
    """The error for several files or folders of one group or host."""
    used, *ignored = (f"{shown(path)}/" if path.is_dir() else shown(path) for path in found)
    return (
        f"Ansible reads {used} and would ignore {' and '.join(ignored)}. No host was changed.\n"
        f"Keep only the folder {shown(place)}/, with the settings in main.yml and the secrets in vault.yml."
    )


def files(found: list[Path]) -> Iterator[Path]:
    """The files of variables: those given, and all in the given folders that Ansible reads."""
    for path in found:
        if path.is_dir():
            inner = sorted(path.iterdir())
            yield from files([p for p in inner if p.suffix in SUFFIXES and p.name[0] != "." and p.name[-1] != "~"])
        else:
            yield path


def check_password(loader: Any, file: Path) -> None:
    """Fail if a file is encrypted and this run has no password that decrypts it, or if secrets are not encrypted."""
    with file.open("rb") as content:
        encrypted = is_encrypted_file(content)
    if not encrypted and file.stem == "vault":
        raise AnsibleError(
            f"{shown(file)} is not encrypted. No host was changed.\nRun: ansible-vault encrypt {shown(file)}"
        )
    if not encrypted:
        return
    try:
        loader.get_text_file_contents(str(file))
    except AnsibleVaultError as error:
        reason = str(error)
        if "no vault secrets found" in reason:
            reason = "this run has no vault password"
        elif "could decrypt" in reason:
            reason = "it has another vault password"
        raise AnsibleError(
            f"{shown(file)} can't be decrypted: {reason}. No host was changed.\n"
            "Set ANSIBLE_VAULT_PASSWORD_FILE to the path of the password file, or add --ask-vault-pass; "
            "see docs/secrets.md."
        ) from None


def shown(path: Path) -> str:
    """A path for an error: relative to the current folder, if it is inside."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
