"""Which key opens what on a host that keeps backups."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.modules import backup_access
from modules import call

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"


def test_a_key_gives_append_only_access_to_its_own_repository() -> None:
    line = backup_access.line("web1", f"{KEY} somebody@host", "backups", Path("/srv/backups"), 0)
    assert line == (
        'restrict,command="case $SSH_ORIGINAL_COMMAND in archive*) exec /usr/bin/python3 -IB '
        "/usr/local/lib/backup/store.py --append-only /srv/backups/archives/web1;; *) exec "
        "/usr/bin/rclone --config /dev/null serve restic --stdio --append-only "
        f'/srv/backups/repositories/web1;; esac" {KEY} backups web1\n'
    )
    pruning = backup_access.line("web1", KEY, "prune", Path("/r"), time.time() + 60)
    assert "--append-only" not in pruning
    assert ',expiry-time="20' in pruning


@pytest.mark.parametrize(("name", "key"), [('a" b', KEY), ("../x", KEY), ("web1", "no key"), ("web1", "")])
def test_a_name_or_key_that_is_not_one_is_refused(name: str, key: str) -> None:
    with pytest.raises(ValueError, match="not a host with a public key"):
        backup_access.line(name, key, "backups", Path("/r"), 0)


def test_keys_of_other_hosts_and_purposes_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "chown", lambda *_: None)
    home = tmp_path / "backups"
    keys = home / ".ssh/authorized_keys"

    def access(name: str, **params: Any) -> bool:
        return bool(call(backup_access, home=str(home), clients=[{"name": name, "key": KEY}], **params)["changed"])

    assert access("web1")
    assert not access("web1")
    assert access("web2")
    assert access("web2", purpose="prune")
    assert len(keys.read_text().splitlines()) == 4
    assert access("web2", purpose="prune", state="absent")
    assert [line.split()[-1] for line in keys.read_text().splitlines()[1:]] == ["web1", "web2"]
    assert "prune" not in keys.read_text()
