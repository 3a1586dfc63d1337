"""The program `backup`, with restic itself, a repository in a folder, and SQLite databases."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from backup_data import Make, count, database, replaced
from backups import copies, drill, engine, main, runs, status
from backups.drill import Drill
from backups.engine import Restic
from backups.restoring import Restorer
from backups.saving import Saver
from backups.settings import BackupError, Target

pytestmark = [pytest.mark.needs("restic"), pytest.mark.slow]


# --- backup and restore ---------------------------------------------------------------------------------------------


def test_destroyed_data_is_restored_with_links_modes_and_the_databases(
    saver: Saver, restorer: Restorer, data: Path
) -> None:
    (data / "uploads/a.txt").chmod(0o640)
    with contextlib.closing(database(data / "app.db", 100)):
        assert saver.run([]) == []
    (data / "uploads/a.txt").write_text("sunk")
    (data / "app.db").unlink()
    plan = replaced(restorer)
    assert (data / "uploads/a.txt").read_text() == "ahoy"
    assert (data / "uploads/a.txt").stat().st_mode & 0o777 == 0o640
    assert os.readlink(data / "uploads/link") == "a.txt"
    assert count(data / "app.db") == 100
    assert not list(data.glob("app.db-*"))
    assert (plan.former_data / "uploads/a.txt").read_text() == "sunk"
    assert not list(data.parent.glob(".restore-*"))


def test_only_rows_that_were_committed_are_in_the_copy_of_a_database_under_load(
    saver: Saver, restorer: Restorer, data: Path
) -> None:
    """Each transaction writes two rows, so a copy with an odd number has half of one."""
    database(data / "app.db", 2).close()
    stop = threading.Event()

    def write() -> None:
        with contextlib.closing(sqlite3.connect(data / "app.db", timeout=30)) as opened:
            while not stop.is_set():
                with opened:
                    opened.execute("INSERT INTO numbers VALUES (1)")
                    opened.execute("INSERT INTO numbers VALUES (2)")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            assert saver.run(["shop"]) == []
    finally:
        stop.set()
        writer.join()
    replaced(restorer)
    assert count(data / "app.db") % 2 == 0
    assert count(data / "app.db") > 2
    assert copies.problems(data) == []


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_database_that_a_crash_has_left_is_copied_with_its_log(tmp_path: Path, mode: str) -> None:
    opened = sqlite3.connect(tmp_path / "live.db")
    opened.execute(f"PRAGMA journal_mode={mode}")
    opened.execute("PRAGMA wal_autocheckpoint=0")
    opened.execute("CREATE TABLE numbers (value INTEGER)")
    opened.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in range(5000)])
    opened.commit()
    if mode == "DELETE":
        opened.execute("PRAGMA cache_size=1")  # writes pages before the commit, so that the journal is needed
        opened.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in range(5000)])
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for path in tmp_path.glob("live.db*"):
        if not path.name.endswith("-shm"):
            shutil.copy(path, crashed)
    opened.close()
    (tmp_path / "copy").mkdir()
    assert [one.path for one in copies.copy_all(crashed, tmp_path / "copy")] == ["live.db"]
    assert count(tmp_path / "copy/live.db") == 5000


def test_the_newest_backup_before_a_time_is_restored(saver: Saver, restorer: Restorer, data: Path) -> None:
    stamps = []
    for text in ("one", "two"):
        (data / "uploads/a.txt").write_text(text)
        assert saver.run(["shop"]) == []
        stamps.append(restorer.backups()[-1])
        time.sleep(1.1)
    replaced(restorer, at=stamps[0].shown)
    assert (data / "uploads/a.txt").read_text() == "one"
    with pytest.raises(BackupError, match=rf"(?s)no backup of shop from 2001-01-01.*{stamps[0].shown}"):
        restorer.prepare("shop", at="2001-01-01 00:00", replace=True)


def test_a_copy_is_created_beside_the_live_data(saver: Saver, restorer: Restorer, data: Path) -> None:
    saver.run([])
    (data / "uploads/a.txt").write_text("new")
    restorer.prepare("shop", as_name="shop-copy")
    assert (data / "uploads/a.txt").read_text() == "new"
    assert (data.parent.parent / "shop-copy/data/uploads/a.txt").read_text() == "ahoy"
    with pytest.raises(BackupError, match="shop-copy already exists"):
        restorer.prepare("shop", as_name="shop-copy")


def test_excluded_files_are_not_saved(new_settings: Make, folders: dict[str, Any], data: Path) -> None:
    (data / "cache").mkdir()
    (data / "cache/x").write_text("x")
    database(data / "cache/cache.db", 3).close()
    (data / "uploads/b.tmp").write_text("x")
    (data / "c.tmp").write_text("x")
    chosen = new_settings(exclude=("cache/", "*.tmp"))
    assert Saver(chosen, cache=None, **folders).run([]) == []
    replaced(Restorer(chosen, **folders))
    assert sorted(path.name for path in data.rglob("*")) == ["a.txt", "link", "uploads"]


# --- times and retention --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("2026-01-02T03:04Z", "20260102T030459Z"),
        ("2026-01-02 03:04:05+00:00", "20260102T030405Z"),
        ("2026-01-02 03:04+02:00", "20260102T010459Z"),
    ],
)
def test_a_time_means_its_last_moment(text: str, last: str) -> None:
    assert runs.new_stamp(runs.latest_moment(text)) == last


def test_a_text_that_is_no_time_is_refused() -> None:
    with pytest.raises(BackupError, match="'yesterday' is not a time"):
        runs.latest_moment("yesterday")


def snapshots(*stamps: str, kinds: tuple[str, ...] = ("database", "files")) -> list[engine.Snapshot]:
    return [
        engine.Snapshot(f"{stamp} {kind}", "", tuple(runs.tags_of("shop", kind, stamp)), ())
        for stamp in stamps
        for kind in kinds
    ]


def test_the_newest_backup_of_each_day_week_and_month_is_kept_with_all_its_parts() -> None:
    days = [f"202601{day:02}T{hour:02}0000Z" for day in range(1, 32) for hour in (3, 15)]
    gone = runs.to_forget(snapshots(*days), {"daily": 2, "weekly": 2, "monthly": 1})
    kept = {one.id for one in snapshots(*days)} - set(gone)
    assert kept == {
        f"{stamp} {kind}"
        for stamp in ("20260131T150000Z", "20260130T150000Z", "20260125T150000Z")
        for kind in ("database", "files")
    }


def test_the_newest_complete_backup_is_never_deleted() -> None:
    found = snapshots("20260101T030000Z") + snapshots("20260102T030000Z", kinds=("database",))
    assert runs.to_forget(found, {"daily": 0, "weekly": 0, "monthly": 0}) == ["20260102T030000Z database"]


def test_pruned_backups_are_gone_and_the_kept_one_is_whole(saver: Saver, restorer: Restorer, data: Path) -> None:
    for text in ("one", "two"):
        (data / "uploads/a.txt").write_text(text)
        saver.run(["shop"])
        time.sleep(1.1)
    assert saver.prune(saver.settings.target()) == 2  # the files and the mark
    assert len(restorer.backups()) == 1
    saver.check(saver.settings.target())
    replaced(restorer)
    assert (data / "uploads/a.txt").read_text() == "two"


# --- the drill ------------------------------------------------------------------------------------------------------


def test_the_drill_restores_checks_and_cleans_up(
    saver: Saver, new_settings: Make, folders: dict[str, Any], data: Path
) -> None:
    database(data / "app.db", 10).close()
    saver.run([])
    assert (
        Drill(new_settings(drill_command="sh -c 'test -f $DATA_DIR/app.db && test $APP = shop'"), **folders).run([])
        == []
    )
    found = status.Status(folders["state"]).read()["drills"]["shop"]
    assert found["error"] == ""
    assert (found["files"], found["sqlite"]) == (2, 1)
    assert list((folders["state"] / "drill").iterdir()) == []


def test_the_drill_reports_a_damaged_database_and_a_command_that_fails(
    saver: Saver, new_settings: Make, folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    saver.run([])
    chosen = new_settings(drill_command="sh -c 'echo no octopus; exit 3'")
    assert "exit status 3: no octopus" in Drill(chosen, **folders).run([])[0]
    monkeypatch.setattr(drill, "problems", lambda _: ["app.db: malformed"])
    assert "Damaged SQLite databases in the backup of shop: app.db" in Drill(new_settings(), **folders).run([])[0]


def test_the_drill_reports_a_command_that_does_not_end(
    saver: Saver, new_settings: Make, folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    saver.run([])
    monkeypatch.setattr(drill, "COMMAND_TIMEOUT", 0.2)
    assert "did not end within" in Drill(new_settings(drill_command="sleep 30"), **folders).run([])[0]
    assert "did not end" in status.Status(folders["state"]).read()["drills"]["shop"]["error"]


# --- append-only ----------------------------------------------------------------------------------------------------


@pytest.mark.needs("rclone")
def test_the_forced_command_lets_a_host_add_backups_but_not_delete_them(
    new_settings: Make, folders: dict[str, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "forced").write_text(
        f"#!/bin/sh\nexec rclone --config '' serve restic --stdio --append-only {tmp_path}/store\n"
    )
    (tmp_path / "forced").chmod(0o755)
    monkeypatch.setattr(Restic, "ssh_command", lambda _: [str(tmp_path / "forced")])
    chosen = new_settings(targets=(Target("store", "rclone:web1", ssh="x@y", append_only=True),))
    saver = Saver(chosen, cache=None, **folders)
    assert saver.run([]) == []
    assert saver.run(["shop"]) == []
    restic = saver.engine(chosen.target())
    first = restic.snapshots()[0].id
    # restic tries it again for minutes.
    with subprocess.Popen(
        restic.argv("forget", first), stderr=subprocess.PIPE, text=True, env=restic.environment()
    ) as forget:
        assert forget.stderr
        said = next((line for line in forget.stderr if "403 Forbidden" in line), "")
        forget.kill()
    assert "Remove(<snapshot" in said
    assert len(restic.snapshots("kind:files")) == 2  # and the lock of the dead process is removed
    assert [run.incomplete for run in runs.runs_of(restic.snapshots())] == [False, False]
    (data / "uploads/a.txt").unlink()
    replaced(Restorer(chosen, **folders))
    assert (data / "uploads/a.txt").read_text() == "ahoy"


# --- the command line -----------------------------------------------------------------------------------------------


def test_the_commands_of_the_guide(
    new_settings: Make,
    folders: dict[str, Any],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = new_settings()
    monkeypatch.setattr(main, "load", lambda _: chosen)
    monkeypatch.setattr(main, "Saver", lambda given: Saver(given, cache=None, **folders))
    monkeypatch.setattr(main, "Restorer", lambda given: Restorer(given, **folders))
    monkeypatch.setattr(main, "Drill", lambda given: Drill(given, **folders))
    monkeypatch.setattr(main, "is_root", lambda: False)
    for command in (["run", "all"], ["drill", "shop"], ["check"], ["list"], ["prune", "disk"]):
        assert main.main(command) == 0, command
    assert main.main(["restore", "shop"]) == 1
    assert "-e yes=replace" in capsys.readouterr().err
    assert main.main(["restore", "shop", "--yes", "replace"]) == 0
    assert "Restored shop from the backup of" in capsys.readouterr().out
    assert main.main(["restore", "shop", "--as", "shop-copy"]) == 0
    assert main.main(["remove-copy", "shop"]) == 1
    assert main.main(["remove-copy", "shop-copy"]) == 0
    assert not (data.parent.parent / "shop-copy").exists()
    assert main.main(["former", "shop", "--delete", "--json"]) == 0
    assert "data.before-" in json.loads(capsys.readouterr().out.splitlines()[-1])[0]
    assert main.main(["run", "octopus"]) == 1
    assert "This host saves no app octopus. It saves: shop." in capsys.readouterr().err


def test_the_status_expects_no_archive_any_more_as_soon_as_the_settings_are_recorded(
    new_settings: Make, folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "load", lambda _: new_settings())
    monkeypatch.setattr(main, "Saver", lambda given: Saver(given, cache=None, **folders))
    known = status.Status(folders["state"])
    known.record("settings", point_in_time=True, since=7)
    assert main.main(["record"]) == 0
    found = known.read()["settings"]
    assert (found["point_in_time"], found["since"], found["apps"]) == (False, 7, [{"name": "shop"}])


def test_a_step_that_the_system_refuses_is_an_error_and_no_trace(
    new_settings: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = new_settings()
    monkeypatch.setattr(main, "load", lambda _: chosen)

    def refuse(*_: Any) -> int:
        raise PermissionError(1, "Operation not permitted", "/srv/shop/data")

    monkeypatch.setattr(main, "call", refuse)
    assert main.main(["list"]) == 1
    assert "refused a step of 'backup list'" in capsys.readouterr().err


def test_two_runs_at_the_same_time_wait_for_each_other(tmp_path: Path) -> None:
    with (
        status.locked(tmp_path / "lock"),
        pytest.raises(BackupError, match="Another backup"),
        status.locked(tmp_path / "lock", patience=0.1),
    ):
        pass


def test_root_lets_the_unit_make_a_backup(
    new_settings: Make, folders: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = new_settings()
    monkeypatch.setattr(main, "load", lambda _: chosen)
    monkeypatch.setattr(main, "Saver", lambda given: Saver(given, cache=None, **folders))
    monkeypatch.setattr(main, "is_root", lambda: True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").write_text(f"#!/bin/sh\necho $* >>{tmp_path}/called\n")
    (tmp_path / "bin/systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    assert [main.main(argv) for argv in (["run", "all"], ["drill", "shop"], ["run", "../x"])] == [0, 0, 1]
    assert (tmp_path / "called").read_text().splitlines() == [
        "start backup@all.service",
        "start backup-drill@shop.service",
    ]
    assert not (tmp_path / "state/stage").exists()
