"""The password and the SSH key of the backups of a host."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.blueoctopus.site.plugins.modules import backup_keys
from modules import call


def test_the_password_is_shown_once_and_never_changed(tmp_path: Path) -> None:
    folder = str(tmp_path / "etc")
    first = call(backup_keys, folder=folder)
    assert first["changed"]
    assert len(first["new_password"]) == 35
    assert first["public_key"].startswith("ssh-ed25519 ")
    second = call(backup_keys, folder=folder)
    second.pop("invocation", None)  # ansible-core 2.19 adds it
    assert second == {"changed": False, "public_key": first["public_key"], "new_password": ""}
    assert call(backup_keys, folder=folder, password=first["new_password"])["changed"] is False
    assert "differs from the password" in call(backup_keys, folder=folder, password="other")["msg"]
    assert (tmp_path / "etc/password").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "etc").stat().st_mode & 0o777 == 0o700
    given = call(backup_keys, folder=str(tmp_path / "new"), password="from-the-vault")
    assert given["new_password"] == ""
    assert (tmp_path / "new/password").read_text() == "from-the-vault\n"
