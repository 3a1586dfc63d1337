"""The keys of the administrator's account."""

from __future__ import annotations

from ansible_collections.blueoctopus.site.plugins.modules import admin_account

KEYS = """# of root
ssh-ed25519 AAAAone somebody@laptop
restrict,command="rrsync /srv" ssh-ed25519 AAAAtwo backup
  ecdsa-sha2-nistp256 AAAAthree
"""


def test_all_keys_of_a_file_are_found() -> None:
    found = {"ssh-ed25519 AAAAone": "somebody@laptop", "ssh-ed25519 AAAAtwo": "backup"}
    assert admin_account.keys_in(KEYS) == found | {"ecdsa-sha2-nistp256 AAAAthree": ""}


def test_keys_with_options_are_skipped_on_request() -> None:
    taken = admin_account.keys_in(KEYS, unrestricted=True)
    assert list(taken) == ["ssh-ed25519 AAAAone", "ecdsa-sha2-nistp256 AAAAthree"]
