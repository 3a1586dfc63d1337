"""The module that takes the steps of a restore: its options and the lock of the app."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import release_lock
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import Lock
from ansible_collections.blueoctopus.site.plugins.modules import backup_restore
from modules import call


def test_options_reach_the_program_as_single_words() -> None:
    params = {"name": "shop", "step": "prepare", "at": "2026-01-02 03:04", "as_name": "", "replace": True}
    words = backup_restore.command(params | {"target": "", "from_host": "", "config": ""})
    assert words[1:] == ["restore", "shop", "--json", "--step", "prepare", "--at=2026-01-02 03:04", "--yes=replace"]


def test_a_run_neither_undoes_the_restore_of_another_one_nor_takes_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "backup"
    program.write_text(f"#!/bin/sh\necho \"$@\" >>{tmp_path}/calls\necho '{{}}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(backup_restore, "PROGRAM", str(program))
    monkeypatch.setattr(backup_restore, "PLANS", str(tmp_path))
    monkeypatch.setattr(backup_restore, "Lock", lambda name: Lock(name, tmp_path / "locks"))
    (tmp_path / "shop.json").write_text('{"stamp": "20260102T030405Z"}')
    lock = Lock("shop", tmp_path / "locks")
    assert lock.take("restore-20260102T030405Z", {"by": "ann", "since": ""})
    assert "is being changed by ann" in call(backup_restore, name="shop", step="prepare", by="bob")["msg"]
    assert not call(backup_restore, name="shop", step="undo", stamp="20270102T030405Z")["changed"]
    assert lock.token == "restore-20260102T030405Z"
    assert not (tmp_path / "calls").exists()
    assert call(backup_restore, name="shop", step="undo", stamp="20260102T030405Z")["changed"]
    assert lock.token == ""
    assert "--stamp=20260102T030405Z" in (tmp_path / "calls").read_text()


def test_a_restore_that_takes_long_keeps_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, renewed = tmp_path / "backup", tmp_path / "locks/shop/renewed"
    # It succeeds when somebody writes its renewal again.
    program.write_text(
        f"#!/bin/sh\necho 0 >{renewed}\nfor n in $(seq 100); do\n"
        f"grep -qx 0 {renewed} || exec echo '{{}}'\nsleep 0.1\ndone\n"
        "echo the lock was not renewed >&2\nexit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(backup_restore, "PROGRAM", str(program))
    monkeypatch.setattr(backup_restore, "Lock", lambda name: Lock(name, tmp_path / "locks"))
    monkeypatch.setattr(release_lock, "RENEWAL_INTERVAL", 0.1)
    result = call(backup_restore, name="shop", step="prepare", by="ann")
    assert "failed" not in result, result
    assert Lock("shop", tmp_path / "locks").token.startswith("restore-")
