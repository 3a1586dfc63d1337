"""The keys of the administrator's account."""

from __future__ import annotations

from ansible_collections.blueoctopus.site.plugins.modules import admin_account

KEYS = """# of root
ssh-ed25519 AAAAone somebody@laptop
restrict,command="rrsync /srv" ssh-ed25519 AAAAtwo backup
  ecdsa-sha2-nistp256 AAAAthree
"""


def test_all_keys_of_a_file_are_seen() -> None:
    found = {"ssh-ed25519 AAAAone": "somebody@laptop", "ssh-ed25519 AAAAtwo": "backup"}
    assert admin_account.keys_in(KEYS) == found | {"ecdsa-sha2-nistp256 AAAAthree": ""}


def test_a_key_with_restrictions_makes_no_administrator() -> None:
    taken = admin_account.keys_in(KEYS, unrestricted=True)
    assert list(taken) == ["ssh-ed25519 AAAAone", "ecdsa-sha2-nistp256 AAAAthree"]
