"""What the program `backup` says and keeps when a target, a password or a command fails."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from backup_data import Make
from backups import engine, main, placing, runs, status
from backups.drill import Drill
from backups.engine import NoRepository
from backups.restoring import Restorer
from backups.saving import Saver
from backups.settings import BackupError, Target

pytestmark = [pytest.mark.needs("restic"), pytest.mark.slow]


def test_the_error_for_a_wrong_password_names_the_solution(saver: Saver, folders: dict[str, Any]) -> None:
    saver.run([])
    (folders["config"] / "password").write_text("other")
    failures = saver.run([])
    assert len(failures) == 1
    assert "another password than this host" in failures[0]
    assert "backup_password" in failures[0]
    known = status.Status(folders["state"]).read()["backups"]["shop"]["disk"]
    assert "another password" in known["error"]
    assert known["time"] > 0  # of the last good one


def test_a_damaged_repository_is_found_by_the_check_and_the_drill(
    saver: Saver, new_settings: Make, folders: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    (data / "big").write_bytes(os.urandom(2**20))
    assert saver.run([]) == []
    saver.check(saver.settings.target())
    for pack in (tmp_path / "repository/data").rglob("*"):
        if pack.is_file():
            pack.chmod(0o600)
            content = bytearray(pack.read_bytes())
            content[len(content) // 3] ^= 255
            pack.write_bytes(content)
    restic = saver.engine(saver.settings.target())
    with pytest.raises(BackupError, match="is damaged"):
        restic.check("1/1")
    failures = Drill(new_settings(), **folders).run([])
    assert failures
    assert "is damaged" in failures[0]
    assert "is damaged" in status.Status(folders["state"]).read()["drills"]["shop"]["error"]


def test_a_damaged_repository_is_not_pruned_and_its_error_stays_until_a_check_succeeds(
    saver: Saver, folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert saver.run([]) == []
    target, known = saver.settings.target(), status.Status(folders["state"])

    def fail(*_: Any) -> None:
        raise BackupError("is damaged")

    monkeypatch.setattr(engine.Restic, "check", fail)
    monkeypatch.setattr(engine.Restic, "forget", lambda *_: pytest.fail("a damaged repository is pruned"))
    known.record("targets", target.name, error="is damaged", checked=0)
    for _night in range(2):
        assert saver.look_after(target) == "is damaged"
    monkeypatch.undo()
    saver.prune(target)
    assert known.read()["targets"][target.name]["error"] == "is damaged"
    saver.check(target)
    assert known.read()["targets"][target.name]["error"] == ""


def test_a_repository_that_is_gone_is_not_replaced_by_an_empty_one(
    new_settings: Make,
    folders: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = new_settings()
    saver = Saver(chosen, cache=None, **folders)
    assert saver.run(["shop"]) == []
    shutil.rmtree(tmp_path / "repository")
    assert "The repository on disk is gone" in saver.run(["shop"])[0]
    assert not (tmp_path / "repository").exists()
    moved = replace(chosen, targets=(Target("disk", str(tmp_path / "new")),))
    assert Saver(moved, cache=None, **folders).run(["shop"]) == []  # the first time there
    shutil.rmtree(tmp_path / "new")
    monkeypatch.setattr(main, "load", lambda _: moved)
    monkeypatch.setattr(main, "Saver", lambda given: Saver(given, cache=None, **folders))
    assert main.main(["forget-repository", "disk"]) == 0
    assert "the next backup starts a new one" in capsys.readouterr().out
    assert Saver(moved, cache=None, **folders).run(["shop"]) == []


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        (Target("box", "sftp:x:/x", ssh="nobody@127.0.0.1", port=1), "can't be reached"),
        (Target("store", "rclone:web1", ssh="nobody@127.0.0.1", port=1), "can't be reached"),
    ],
)
def test_a_target_that_is_down_is_named(
    new_settings: Make, folders: dict[str, Any], target: Target, cause: str, tmp_path: Path
) -> None:
    chosen = new_settings(targets=(target, Target("disk", str(tmp_path / "repository"))))
    failures = Saver(chosen, cache=None, **folders).run([])
    assert len(failures) == 1
    assert f"The target {target.name} {cause}" in failures[0]
    assert Restorer(chosen, **folders).backups("disk")  # the other target got its backup


# An error of restic 0.18 with --json.
JSON_ERROR = (
    r'{"message_type":"exit_error","code":1,"message":"failed to load snapshot 8f: LoadRaw(\u003csnapshot/8f\u003e): '
    r'invalid data returned\ngithub.com/restic/restic/internal/x.init\n\t/build/restic/repository.go:12"}'
)


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("Fatal: unable to save snapshot: write: no space left on device", "is full"),
        ("Fatal: unable to create lock in backend: repository is already locked by PID 1", "Another run uses"),
        ("client.PutObject: Access Denied.", "refused the operation"),
        ("Fatal: unable to open config file: x\nIs there a repository at the following location?", "has no repository"),
        ("Load(<data/1>): ciphertext verification failed", "is damaged"),
        ("panic: runtime error: invalid memory address or nil pointer dereference", "is damaged"),
        (JSON_ERROR, "is damaged."),
        (JSON_ERROR, "restic: failed to load snapshot 8f: LoadRaw(<snapshot/8f>): invalid data returned"),
        ("Fatal: unable to open config file: stat /mnt/restic/a/config: permission denied", "/mnt/restic/a/config"),
        ("nobody@host: Permission denied (publickey).", "does not accept the login"),
        ("rclone: Permission denied (publickey).\nFatal: error talking HTTP to rclone", "does not accept the login"),
        ("Fatal: error talking HTTP to rclone: unexpected EOF", "can't be reached"),
        (
            "Fatal: unable to open repository at sftp:x: unable to start the sftp session, error: EOF",
            "can't be reached",
        ),
        ("something new", "restic failed for the target disk: something new"),
    ],
)
def test_errors_of_restic_are_explained(said: str, meaning: str) -> None:
    assert meaning in engine.explain("disk", said)
    assert "github.com" not in engine.explain("disk", said)


def test_a_repository_that_is_gone_is_named(new_settings: Make, folders: dict[str, Any], tmp_path: Path) -> None:
    target = Target("disk", str(tmp_path / "restic/none"))
    restic = Saver(new_settings(targets=(target,)), cache=None, **folders).engine(target)
    with pytest.raises(NoRepository, match=r"The target disk has no repository(.|\n)*/restic/none"):
        restic.snapshots()


def test_a_command_that_fails_saves_nothing(saver: Saver) -> None:
    restic = saver.engine(saver.settings.target())
    restic.create()
    with pytest.raises(BackupError, match=r"sh failed.*oops"):
        restic.save_output(["sh", "-c", "echo half; echo oops >&2; exit 1"], "/x.dump", ["app:shop"])
    assert restic.snapshots() == []
    saved = restic.save_output(["sh", "-c", "echo whole"], "/x.dump", ["app:shop"])
    assert saved.size == len("whole\n")


def test_an_interrupted_backup_does_not_count(saver: Saver, restorer: Restorer) -> None:
    restic = saver.engine(saver.settings.target())
    restic.create()
    restic.save_output(["echo", "rows"], "/shop.dump", runs.tags_of("shop", "database", "20260102T030405Z"))
    assert restorer.backups() == []
    with pytest.raises(BackupError, match="no backup of shop"):
        restorer.prepare("shop", replace=True)


def test_a_restore_counts_the_database_too_where_it_shares_the_disk_with_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**30, 2**30, 400 * 2**20))
    files, cluster = tmp_path / "files", tmp_path / "cluster"
    for folder in (files, cluster):
        folder.mkdir()
    placing.check_space({files: 200 * 2**20})
    with pytest.raises(BackupError, match=r"needs 400 MiB, but the disk of .*files and .*cluster has 400 MiB free"):
        placing.check_space({files: 200 * 2**20, cluster: 200 * 2**20})
