"""Packed modules are kept from one run of Ansible to the next, as long as nothing that they contain has changed."""

from __future__ import annotations

import os
import shutil
import stat
import time
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.callback import packed_modules
from ansible_collections.blueoctopus.site.plugins.plugin_utils import settings
from plays import run_play

PING = "- ansible.builtin.ping:"


@pytest.mark.slow
def test_the_next_run_reads_the_packed_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "ok=1" in run_play(tmp_path, PING)
    (kept,) = (tmp_path / "cache/blueoctopus/modules").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    (ping,) = kept.glob("ansible.modules.ping-*")
    assert "ok=1" in run_play(tmp_path, PING)
    ping.write_text("not what Ansible has written")
    assert "failed=1" in run_play(tmp_path, PING)


@pytest.mark.slow
def test_a_run_without_a_place_for_packed_modules_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file, where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "ok=1" in run_play(tmp_path, PING)


@pytest.mark.parametrize("changed", ["modules/site_certificate.py", "module_utils/checks.py"])
def test_packed_modules_of_changed_files_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    for folder in ("modules", "module_utils"):
        shutil.copytree(packed_modules.PLUGINS / folder, tmp_path / folder)
    monkeypatch.setattr(packed_modules, "PLUGINS", tmp_path)
    before = packed_modules.cache_key()
    assert packed_modules.cache_key() == before
    (tmp_path / changed).write_text((tmp_path / changed).read_text() + "# changed\n")
    assert packed_modules.cache_key() != before


def test_only_complete_modules_of_ansible_and_this_collection_are_kept(tmp_path: Path) -> None:
    run, kept = tmp_path / "run", tmp_path / "kept"
    run.mkdir()
    names = ("ansible.modules.ping-x", "ansible_collections.blueoctopus.site.plugins.modules.a-x")
    others = (
        "ansible_collections.other.one.plugins.modules.a-x",
        "ansible.legacy.ping-x",
        f"{names[0]}-part",
        f"{names[0]}.lock",
    )
    for name in (*names, *others):
        (run / name).touch()
    packed_modules.link_files(run, kept)
    assert {file.name for file in kept.iterdir()} == set(names)


def test_packed_modules_that_no_run_has_used_for_a_month_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("ansible.constants.DEFAULT_LOCAL_TMP", str(tmp_path / "run"))
    top = tmp_path / "blueoctopus/modules"
    for name, days in (("old", 31), ("recent", 29)):
        (top / name).mkdir(parents=True)
        os.utime(top / name, (time.time() - days * 24 * 3600,) * 2)
    callback = packed_modules.CallbackModule()
    assert {folder.name for folder in top.iterdir()} == {"recent", callback.kept.name}


def test_the_processes_of_tasks_do_not_read_the_settings_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed_modules.preload()
    monkeypatch.setattr(settings, "PROJECT", tmp_path)
    assert settings.setting({}, "ssh_port") == 22
    assert "wsgi" in settings.app_keys()
