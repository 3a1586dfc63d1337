"""Files that a backup could not read, and files that the drill does not find."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import backup_status
from backup_data import Make, replaced
from backups import engine, runs, settings, status
from backups.drill import Drill
from backups.restoring import Restorer
from backups.saving import Saver
from programs import find

pytestmark = [pytest.mark.needs("restic", "setpriv"), pytest.mark.slow]


@pytest.fixture
def no_privileges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """restic runs without the capability to read all files."""
    (tmp_path / "bin").mkdir()
    drop = "setpriv --bounding-set=-all --inh-caps=-all" if os.geteuid() == 0 else ""
    (tmp_path / "bin/restic").write_text(f'#!/bin/sh\nexec {drop} {find("restic")} "$@"\n')
    (tmp_path / "bin/restic").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)


@pytest.mark.usefixtures("no_privileges")
def test_unreadable_files_are_an_error_and_replace_no_complete_backup(
    saver: Saver, restorer: Restorer, folders: dict[str, Any], data: Path
) -> None:
    assert saver.run([]) == []
    restic = saver.engine(saver.settings.target())
    files = [data / f"uploads/{n}" for n in range(7)]
    for file in files:
        file.write_text("secret")
        file.chmod(0)
    (data / "closed").mkdir(mode=0)
    failure = saver.run(["shop"])[0]
    assert "shop: Its other data was saved, but not what can't be read: " in failure
    assert "and 3 more" in failure
    known = status.Status(folders["state"]).read()["backups"]["shop"]["disk"]
    assert known["error"] in failure
    chosen = {"apps": [{"name": "shop"}], "targets": [{"name": "disk"}], "max_age": saver.settings.max_age}
    results = {"drills": {}, "backups": {"shop": {"disk": known}}}
    problems = list(backup_status.find_problems("shop", chosen, results, 0, 0))
    assert "but not what can't be read" in problems[0][1]
    whole, incomplete = restorer.backups()
    assert (whole.incomplete, incomplete.incomplete) == (False, True)
    assert runs.to_forget(restic.snapshots(), {"daily": 1}) == []
    for file in files:
        file.unlink()
    (data / "closed").rmdir()
    plan = replaced(restorer)
    assert "is incomplete" in plan.facts["note"]
    assert (data / "uploads/a.txt").read_text() == "ahoy"


@pytest.mark.usefixtures("no_privileges")
def test_an_incomplete_backup_that_cannot_be_marked_says_both(
    saver: Saver, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "uploads/secret").write_text("ink")
    (data / "uploads/secret").chmod(0)

    def fail(*_: Any) -> None:
        raise settings.BackupError("The target disk is full.")

    monkeypatch.setattr(engine.Restic, "save_output", fail)
    (error,) = saver.run(["shop"])
    assert "but not what can't be read: " in error
    assert "uploads/secret" in error.splitlines()[0]
    assert "marked as incomplete: The target disk is full." in error


class Killed(BaseException):
    """Ends a run at once, as a power cut does."""


@pytest.mark.usefixtures("no_privileges")
@pytest.mark.parametrize("readable", [True, False])
def test_a_run_that_ends_before_it_has_recorded_that_all_was_read_leaves_an_incomplete_backup(
    readable: bool, saver: Saver, restorer: Restorer, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert saver.run([]) == []
    if not readable:
        (data / "uploads/secret").write_text("ink")
        (data / "uploads/secret").chmod(0)
    save = engine.Restic.save_files

    def save_and_end(restic: engine.Restic, paths: list[Path], exclude: list[str], tags: list[str]) -> engine.Saved:
        save(restic, paths, exclude, tags)
        raise Killed

    monkeypatch.setattr(engine.Restic, "save_files", save_and_end)
    with pytest.raises(Killed):
        saver.run(["shop"])
    assert [run.incomplete for run in restorer.backups()] == [False, True]
    assert runs.to_forget(saver.engine(saver.settings.target()).snapshots(), {"daily": 1}) == []
    assert "is incomplete" in replaced(restorer).facts["note"]
    assert (data / "uploads/a.txt").read_text() == "ahoy"


def saved(day: int, *kinds: str) -> list[engine.Snapshot]:
    """The snapshots of a backup."""
    tags = {kind: tuple(runs.tags_of("shop", kind, f"202601{day:02}T030000Z")) for kind in kinds}
    return [engine.Snapshot(f"{day} {kind}", "", found, ()) for kind, found in tags.items()]


def test_incomplete_backups_are_deleted_one_day_too() -> None:
    whole = [one for day in (1, 2) for one in saved(day, "files", "complete")]
    incomplete = [one for day in (3, 4, 5) for one in saved(day, "files", "incomplete")]
    gone = runs.to_forget([*whole, *incomplete], {"daily": 1})
    assert gone == ["1 files", "1 complete", "3 files", "3 incomplete", "4 files", "4 incomplete"]
    assert runs.to_forget(incomplete[:2], {"daily": 1}) == []


def test_an_incomplete_backup_is_kept_no_longer_than_a_complete_one_of_its_time() -> None:
    old = [*saved(1, "files", "incomplete"), *saved(2, "files")]

    def gone(last: int, **keep: int) -> list[str]:
        return runs.to_forget([*old, *(one for day in range(3, last) for one in saved(day, "files", "complete"))], keep)

    assert gone(4, daily=7) == []  # such as those of a lost host, after the first backup of the one that replaces it
    assert gone(9, daily=7) == []
    assert gone(10, daily=7) == gone(10, daily=7, monthly=1) == ["1 files", "1 incomplete", "2 files"]


@pytest.mark.parametrize(
    "error",
    [
        '{"Op":"lstat","Path":"/gone","Err":2}',
        '{"message":"lstat /gone: no such file or directory"}',
        "{}",
    ],
)
def test_files_that_vanish_while_a_backup_runs_are_no_error(error: str, tmp_path: Path) -> None:
    def said(path: Path | str, error: str = error) -> str:
        return f'{{"message_type":"error","error":{error},"during":"archival","item":"{path}"}}\n'

    assert engine.unreadable(said(tmp_path / "gone") + "Warning: at least one source file could not be read\n") == ()
    closed = said(tmp_path, '{"Op":"open","Err":13}')
    assert engine.unreadable(said(tmp_path / "gone") + closed + closed) == (str(tmp_path),)
    assert engine.unreadable(said(f"{tmp_path}/a\ufffd", "{}")) == (f"{tmp_path}/a\ufffd",)
    assert engine.unreadable("something new") == ("some files",)


def test_a_file_that_vanishes_after_restic_has_listed_its_folder_is_no_error(
    saver: Saver, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "sessions").mkdir()
    names = [data / f"sessions/{n:05}" for n in range(3000)]
    for name in names:
        name.write_text(name.name * 100)
    call = subprocess.run

    def run(argv: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if "backup" not in argv:
            return call(argv, **options)
        with subprocess.Popen(["sh", "-c", f"sleep 0.7; rm -r {data}/sessions"]):
            return call(argv, **options)

    monkeypatch.setattr(subprocess, "run", run)
    assert saver.run(["shop"]) == []


@pytest.mark.usefixtures("no_privileges")
def test_names_that_are_no_utf_8_do_not_end_the_program(saver: Saver, restorer: Restorer, data: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(data) + b"/octop\xff"))
    odd.write_text("ink")
    assert saver.run([]) == []
    replaced(restorer)
    assert odd.read_text() == "ink"
    odd.chmod(0)
    assert "octop\ufffd" in saver.run(["shop"])[0]
    restic = saver.engine(saver.settings.target())
    assert "octop\ufffd" in restic.call("ls", restic.snapshots("kind:files")[0].id).stdout


# --- the drill ------------------------------------------------------------------------------------------------------


@pytest.fixture
def drilled(new_settings: Make, folders: dict[str, Any]) -> Callable[[], list[str]]:
    return lambda: Drill(new_settings(), **folders).run([])


def test_the_drill_fails_when_a_file_of_the_backup_was_not_restored(
    saver: Saver, drilled: Callable[[], list[str]], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "elsewhere").symlink_to("/tmp")
    assert saver.run([]) == []
    assert drilled() == []
    restore = engine.Restic.restore

    def lose(restic: engine.Restic, snapshot: str, folder: Path, *include: str) -> None:
        restore(restic, snapshot, folder, *include)
        Path(f"{folder}{data}/uploads/a.txt").unlink()

    monkeypatch.setattr(engine.Restic, "restore", lose)
    assert "The backup of shop has 1 files, but 0 were restored" in drilled()[0]


def test_the_drill_fails_when_a_backup_has_no_files_but_the_app_had_some(
    saver: Saver, drilled: Callable[[], list[str]], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = engine.Restic.save_files

    def save_none(restic: engine.Restic, paths: list[Path], exclude: list[str], tags: list[str]) -> engine.Saved:
        return save(restic, paths, [*exclude, f"{data}/*"], tags)

    monkeypatch.setattr(engine.Restic, "save_files", save_none)
    assert saver.run([]) == []
    assert "has no files. The app had some" in drilled()[0]
