"""The keys and the sudo rule of the administrator's account."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.blueoctopus.site.plugins.modules import admin_account

KEYS = """# of root
ssh-ed25519 AAAAone somebody@laptop
restrict,command="rrsync /srv" ssh-ed25519 AAAAtwo backup
  ecdsa-sha2-nistp256 AAAAthree
"""
# The output of sudo -l -U on Debian 12 and 13.
DEFAULTS = """Matching Defaults entries for debian on web1:
    env_reset, mail_badpass,
    secure_path=/usr/local/sbin\\:/usr/local/bin\\:/usr/sbin\\:/usr/bin\\:/sbin\\:/bin,
    use_pty

User debian may run the following commands on web1:
"""
GROUP = "    (ALL : ALL) ALL\n"
OWN = "    (ALL : ALL) NOPASSWD: ALL\n"
IMAGE = "    (ALL) NOPASSWD: ALL\n"
NOT_ALLOWED = "User debian is not allowed to run sudo on web1.\n"
PASSWORDLESS = "# Ansible managed\ndebian ALL=(ALL:ALL) NOPASSWD: ALL\n"
Create = Callable[..., dict[str, Any]]


def test_all_keys_of_a_file_are_found() -> None:
    found = {"ssh-ed25519 AAAAone": "somebody@laptop", "ssh-ed25519 AAAAtwo": "backup"}
    assert admin_account.keys_in(KEYS) == found | {"ecdsa-sha2-nistp256 AAAAthree": ""}


def test_keys_with_options_are_skipped_on_request() -> None:
    taken = admin_account.keys_in(KEYS, unrestricted=True)
    assert list(taken) == ["ssh-ed25519 AAAAone", "ecdsa-sha2-nistp256 AAAAthree"]


@pytest.mark.parametrize(
    ("listing", "own", "asks"),
    [
        (DEFAULTS + GROUP, False, True),
        (DEFAULTS + "    (root) SETENV: ALL\n", False, True),
        (DEFAULTS + GROUP + "    (root) NOPASSWD: /usr/bin/apt\n", False, True),
        (DEFAULTS + IMAGE + GROUP, False, True),  # the last match counts
        (DEFAULTS + GROUP + IMAGE, False, False),
        (DEFAULTS + GROUP + OWN, True, True),  # the rule of this module does not count
        (DEFAULTS + GROUP + OWN + IMAGE, True, False),
        (DEFAULTS + OWN, True, False),
        (DEFAULTS.replace("use_pty", "use_pty, !authenticate") + GROUP, False, False),
        (DEFAULTS + "    (root) /usr/bin/apt\n", False, False),
        (NOT_ALLOWED, False, False),
        ("", False, False),
    ],
)
def test_the_output_of_sudo_shows_whether_it_asks_for_a_password(listing: str, own: bool, asks: bool) -> None:
    assert admin_account.asks_for_password(listing, own) == asks


@pytest.fixture
def armed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that the module saved for the undo."""
    saved: list[Path] = []

    def arm(*paths: Path) -> str:
        saved.extend(paths)
        return "token"

    monkeypatch.setattr(admin_account, "arm", arm)
    monkeypatch.setattr(admin_account, "restart_undo_timer", lambda: "")
    return saved


@pytest.fixture
def create(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, armed: list[Path], capsys: pytest.CaptureFixture[str]
) -> Create:
    """Run the module on a host with the user debian, whose files are in a folder of the test; return its result."""
    assert not armed
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/authorized_keys").write_text("ssh-ed25519 AAAAone somebody@laptop\n")
    account = pwd.struct_passwd(("debian", "x", os.getuid(), os.getgid(), "", str(home), "/bin/bash"))
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: account)
    monkeypatch.setattr(admin_account, "SUDOERS", tmp_path / "10-administrator")
    monkeypatch.setattr(admin_account, "SHADOW", tmp_path / "shadow")
    monkeypatch.setattr(AnsibleModule, "get_bin_path", lambda _module, name, *_args, **_options: f"/usr/bin/{name}")

    def run(
        listing: str = DEFAULTS + GROUP, shadow: str = "$y$hash", visudo: int = 0, **arguments: Any
    ) -> dict[str, Any]:
        (tmp_path / "shadow").write_text(f"root:*:1:0:99999:7:::\ndebian:{shadow}:1:0:99999:7:::\n")

        def run_command(_module: AnsibleModule, command: list[str], **_options: Any) -> tuple[int, str, str]:
            if "-l" in command:
                return 0, listing, ""
            assert "visudo" in command[0]
            return visudo, "", "syntax error" if visudo else ""

        monkeypatch.setattr(AnsibleModule, "run_command", run_command)
        with patch_module_args({"name": "debian"} | arguments), pytest.raises(SystemExit):
            admin_account.main()
        return dict(json.loads(capsys.readouterr().out))

    return run


def sudoers() -> str:
    """The content of the module's file for sudo."""
    return admin_account.SUDOERS.read_text() if admin_account.SUDOERS.exists() else ""


def test_a_user_whose_sudo_asks_for_a_password_keeps_it(create: Create) -> None:
    result = create(sudo_password_given=True)
    assert not result["changed"]
    assert result["sudo_password"]
    assert sudoers() == ""


def test_a_rule_without_a_password_is_removed_from_a_user_who_has_one(create: Create, armed: list[Path]) -> None:
    admin_account.SUDOERS.write_text(PASSWORDLESS)
    assert create(DEFAULTS + GROUP + OWN, sudo_password_given=True, _ansible_check_mode=True)["changed"]
    assert sudoers() == PASSWORDLESS
    result = create(DEFAULTS + GROUP + OWN, sudo_password_given=True)
    assert result["changed"]
    assert sudoers() == ""
    assert armed


def test_the_inventory_can_allow_sudo_without_a_password(create: Create) -> None:
    result = create(passwordless_sudo=True)
    assert result["changed"]
    assert not result["sudo_password"]
    assert sudoers() == PASSWORDLESS
    assert not create(DEFAULTS + GROUP + OWN, passwordless_sudo=True)["changed"]


@pytest.mark.parametrize(
    ("listing", "shadow"),
    [
        (DEFAULTS + GROUP + IMAGE, "$y$hash"),
        (DEFAULTS + GROUP, "*"),
        (DEFAULTS + GROUP, "!$y$hash"),
        (NOT_ALLOWED, "!"),
    ],
)
def test_a_user_who_has_no_password_for_sudo_needs_none(create: Create, listing: str, shadow: str) -> None:
    result = create(listing, shadow)
    assert result["changed"]
    assert not result["sudo_password"]
    assert sudoers() == PASSWORDLESS


def test_a_run_without_the_password_for_sudo_fails_before_a_change(create: Create, armed: list[Path]) -> None:
    result = create()
    assert result["failed"]
    assert "sudo asks debian for a password" in result["msg"]
    assert "admin_passwordless_sudo: true" in result["msg"]
    assert (sudoers(), armed) == ("", [])


def test_a_rule_that_visudo_rejects_is_not_written(create: Create, armed: list[Path]) -> None:
    result = create(passwordless_sudo=True, visudo=1)
    assert result["failed"]
    assert "syntax error" in result["msg"]
    assert (sudoers(), armed) == ("", [])
