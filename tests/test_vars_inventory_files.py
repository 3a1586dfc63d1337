"""The files in group_vars and host_vars, checked before Ansible reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible.inventory.group import Group
from ansible.inventory.host import Host
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.blueoctopus.site.plugins.vars.inventory_files import VarsModule


def check(folder: Path, *passwords: str) -> str:
    """The error for the variables of the group webservers and the host web1; empty if there is none."""
    loader = DataLoader()
    loader.set_vault_secrets([("default", VaultSecret(password.encode())) for password in passwords])
    try:
        VarsModule().get_vars(loader, str(folder), [Group("webservers"), Host("web1"), Host("/chroot")])
    except AnsibleError as error:
        return str(error)
    return ""


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors name files relative to the current folder."""
    monkeypatch.chdir(tmp_path)


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def encrypted(password: str) -> str:
    return str(VaultLib().encrypt("vault_key: x\n", VaultSecret(password.encode()), "default").decode())


@pytest.mark.parametrize(
    ("files", "used", "ignored"),
    [
        (["group_vars/webservers.yml", "group_vars/webservers/main.yml"], "webservers/", "group_vars/webservers.yml"),
        (["host_vars/web1.yml", "host_vars/web1/vault.yml"], "host_vars/web1/", "host_vars/web1.yml"),
        (["host_vars/web1.yml", "host_vars/web1.yaml"], "host_vars/web1.yml", "host_vars/web1.yaml"),
    ],
)
def test_files_that_ansible_would_ignore_are_refused(tmp_path: Path, files: list[str], used: str, ignored: str) -> None:
    for name in files:
        put(tmp_path / name, "ssh_port: 2222\n")
    error = check(tmp_path)
    assert error.startswith("Ansible reads ")
    assert f"{used} and would ignore {ignored}. No host was changed." in error
    assert "Keep only the folder" in error


@pytest.mark.parametrize(
    "name", ["group_vars/webservers/vault.yml", "group_vars/webservers/more/vault.yml", "host_vars/web1.yml"]
)
def test_an_encrypted_file_needs_its_password(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, encrypted("correct horse"))
    assert check(tmp_path).startswith(f"{name} can't be decrypted: this run has no vault password. ")
    assert check(tmp_path, "wrong").startswith(f"{name} can't be decrypted: it has another vault password. ")
    assert check(tmp_path, "wrong", "correct horse") == ""


def test_files_that_ansible_does_not_read_are_not_checked(tmp_path: Path) -> None:
    for name in ("group_vars/webservers/.vault.yml", "group_vars/webservers/vault.yml~", "group_vars/other.yml"):
        put(tmp_path / name, encrypted("correct horse"))
    assert check(tmp_path) == ""


def test_a_vault_file_that_is_not_encrypted_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "group_vars/webservers/vault.yml", "vault_key: x\n")
    error = check(tmp_path)
    assert error.startswith("group_vars/webservers/vault.yml is not encrypted. No host was changed.\n")
    assert "ansible-vault encrypt group_vars/webservers/vault.yml" in error
