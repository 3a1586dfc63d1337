"""The program `backup`, with restic itself, a repository in a folder, and SQLite databases."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from backups import copies, drill, engine, main, placing, plans, restoring, runs, saving, settings, status
from backups.drill import Drill
from backups.engine import Restic
from backups.restoring import Restorer
from backups.saving import Saver
from backups.settings import App, BackupError, Settings, Target

pytestmark = pytest.mark.skipif(not shutil.which("restic"), reason="restic is not installed")
Make = Callable[..., Settings]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Settings for an app `shop`, with a target in a folder."""
    apps = tmp_path / "srv"
    for module in (settings, saving, restoring, drill, main):
        monkeypatch.setattr(module, "APPS", apps)
    monkeypatch.setattr(restoring, "systemctl", lambda *_: "")
    monkeypatch.setattr(restoring, "account_of", lambda _: os_account())
    data = apps / "shop/data"
    (data / "uploads").mkdir(parents=True)
    (data / "uploads/a.txt").write_text("ahoy")
    (data / "uploads/link").symlink_to("a.txt")
    for folder in ("etc", "state", "state/drill", "state/shared"):
        (tmp_path / folder).mkdir()
    (tmp_path / "etc/password").write_text("squid-ink")

    def made(**values: Any) -> Settings:
        return replace(Settings("web1", (App("shop"),), (Target("disk", str(tmp_path / "repository")),)), **values)

    return made


def os_account() -> Any:
    import pwd

    return pwd.getpwuid(os.getuid())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "srv/shop/data"


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Any]:
    """The folders of the program."""
    return {"state": tmp_path / "state", "config": tmp_path / "etc"}


@pytest.fixture
def saver(make: Make, folders: dict[str, Any]) -> Saver:
    return Saver(make(), cache=None, **folders)


@pytest.fixture
def restorer(make: Make, folders: dict[str, Any]) -> Restorer:
    return Restorer(make(), **folders)


def database(path: Path, rows: int) -> sqlite3.Connection:
    """A database with a table of numbers, in WAL mode, still open."""
    opened = sqlite3.connect(path)
    opened.execute("PRAGMA journal_mode=WAL")
    opened.execute("CREATE TABLE numbers (value INTEGER)")
    opened.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in range(rows)])
    opened.commit()
    return opened


def count(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as opened:
        return int(opened.execute("SELECT count(*) FROM numbers").fetchone()[0])


def replaced(restorer: Restorer, name: str = "shop", **options: Any) -> plans.Plan:
    """Take all steps of a restore."""
    plan = restorer.prepare(name, replace=True, **options)
    for step in (restorer.stop, restorer.swap, restorer.start):
        step(plan)
    return plan


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
    with pytest.raises(BackupError, match="shop-copy is there already"):
        restorer.prepare("shop", as_name="shop-copy")


def test_a_live_app_is_not_replaced_without_the_option(saver: Saver, restorer: Restorer, data: Path) -> None:
    saver.run([])
    with pytest.raises(BackupError, match=r"-e yes=replace"):
        restorer.prepare("shop")
    assert (data / "uploads/a.txt").read_text() == "ahoy"


def test_a_swap_that_fails_is_undone(saver: Saver, restorer: Restorer, data: Path) -> None:
    saver.run([])
    (data / "uploads/a.txt").write_text("new")
    plan = restorer.prepare("shop", replace=True)
    shutil.rmtree(Path(plan.folder) / "data")
    with pytest.raises(OSError, match="No such file"):
        restorer.swap(plan)
    restorer.undo(restorer.plans.get("shop"))
    assert (data / "uploads/a.txt").read_text() == "new"
    assert [path.name for path in data.parent.iterdir()] == ["data"]


def swapped(restorer: Restorer, data: Path) -> plans.Plan:
    """A restore that was interrupted after its data was in place, and the app has written since."""
    plan = restorer.prepare("shop", replace=True)
    restorer.swap(plan)
    (data / "order").write_text("new")
    return plan


@pytest.mark.parametrize("options", [{"as_name": "shop-copy"}, {"replace": True}, {}])
def test_a_restore_that_was_interrupted_is_named_and_the_live_data_stays(
    saver: Saver, restorer: Restorer, data: Path, options: dict[str, Any]
) -> None:
    saver.run([])
    plan = swapped(restorer, data)
    with pytest.raises(BackupError, match=r"(?s)was interrupted.*data\.before-.*--step start.*--step undo") as error:
        restorer.prepare("shop", **options)
    assert str(plan.former_data) in str(error.value)
    with pytest.raises(BackupError, match="was interrupted"):
        restorer.delete_former("shop")
    assert (data / "order").read_text() == "new"


def test_an_undo_deletes_nothing_that_was_live(saver: Saver, restorer: Restorer, data: Path) -> None:
    saver.run([])
    (data / "uploads/a.txt").write_text("former")
    plan = swapped(restorer, data)
    restorer.undo(restorer.plans.get("shop"))
    assert (data / "uploads/a.txt").read_text() == "former"
    assert (plan.undone_data / "order").read_text() == "new"
    assert not restorer.plans.find("shop")
    restorer.plans.store(plan)  # a crash before the plan was removed
    restorer.undo(restorer.plans.get("shop"))
    assert (data / "uploads/a.txt").read_text() == "former"
    assert restorer.former("shop") == [str(plan.undone_data)]


@pytest.mark.parametrize("renames", [0, 1])
@pytest.mark.parametrize("step", ["start", "undo"])
def test_a_swap_that_a_crash_has_interrupted_can_be_finished_or_undone(
    saver: Saver, restorer: Restorer, data: Path, step: str, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver.run([])
    (data / "uploads/a.txt").write_text("former")
    plan = restorer.prepare("shop", replace=True)
    done: list[Path] = []

    def crash(path: Path, to: Path) -> None:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(path)
        os.rename(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            restorer.swap(plan)
    getattr(restorer, step)(restorer.plans.get("shop"))
    assert (data / "uploads/a.txt").read_text() == ("ahoy" if step == "start" else "former")
    assert not list(data.parent.glob(".restore-*"))
    assert plan.former_data.exists() == (step == "start")


class Names:
    """A cluster of which only the names of the databases are known."""

    def __init__(self, *names: str) -> None:
        self.known = {name: name for name in names}  # what each one was called at first
        self.closed: set[str] = set()

    def exists(self, name: str) -> bool:
        return name in self.known

    def rename(self, old: str, new: str) -> None:
        assert new not in self.known
        self.known[new] = self.known.pop(old)

    def drop(self, name: str) -> None:
        self.known.pop(name, None)

    def allow_connections(self, name: str) -> None:
        self.closed.discard(name)


@pytest.mark.parametrize("former", [True, False])
def test_an_undo_drops_no_database_that_was_live(make: Make, folders: dict[str, Any], former: bool) -> None:
    server: Any = Names(*(["shop"] if former else []), "shop.restore-S")
    restorer = Restorer(make(), server=server, **folders)
    plan = plans.Plan("shop", "S", "", False, True, str(folders["state"] / ".restore-S"))
    restorer.swap(plan)
    for _ in range(2):  # the second one after a crash before the plan was removed
        server.closed.add("shop")
        restorer.undo(plan)
    expected = {"shop.undone-S": "shop.restore-S"} | ({"shop": "shop"} if former else {})
    assert server.known == expected
    assert former == (server.closed == set())


def test_a_restore_that_has_changed_nothing_is_cleaned_up_only_with_the_lock_of_the_app(
    saver: Saver, restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "LOCKS", tmp_path / "locks")
    saver.run([])
    first = restorer.prepare("shop", replace=True)
    other = "20300102T030405Z"
    with pytest.raises(BackupError, match="Another restore of shop has begun"):
        restorer.prepare("shop", replace=True, stamp=other)
    assert first.restored_data.is_dir()
    (tmp_path / "locks/shop").mkdir(parents=True)
    (tmp_path / "locks/shop/token").write_text(f"restore-{other}")
    second = restorer.prepare("shop", replace=True, stamp=other)
    assert not Path(first.folder).exists()
    assert second.restored_data.is_dir()
    with pytest.raises(BackupError, match="Another restore of shop"):
        restorer.plans.get("shop", first.stamp)


def test_what_was_put_aside_is_listed_and_deleted_on_request(saver: Saver, restorer: Restorer, data: Path) -> None:
    saver.run([])
    plan = replaced(restorer)
    assert restorer.former("shop") == [str(plan.former_data)]
    assert restorer.delete_former("shop") == [str(plan.former_data)]
    assert [path.name for path in data.parent.iterdir()] == ["data"]


def test_excluded_files_are_not_saved(make: Make, folders: dict[str, Any], data: Path) -> None:
    (data / "cache").mkdir()
    (data / "cache/x").write_text("x")
    (data / "uploads/b.tmp").write_text("x")
    (data / "c.tmp").write_text("x")
    chosen = make(exclude=("cache/", "*.tmp"))
    assert Saver(chosen, cache=None, **folders).run([]) == []
    replaced(Restorer(chosen, **folders))
    assert sorted(path.name for path in data.rglob("*")) == ["a.txt", "link", "uploads"]


# --- errors ---------------------------------------------------------------------------------------------------------


def test_a_wrong_password_says_what_can_be_done(saver: Saver, folders: dict[str, Any]) -> None:
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
    saver: Saver, make: Make, folders: dict[str, Any], data: Path, tmp_path: Path
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
    failures = Drill(make(), **folders).run([])
    assert failures
    assert "is damaged" in failures[0]
    assert "is damaged" in status.Status(folders["state"]).read()["drills"]["shop"]["error"]


def test_a_repository_that_is_gone_is_not_replaced_by_an_empty_one(
    make: Make,
    folders: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = make()
    saver = Saver(chosen, cache=None, **folders)
    assert saver.run(["shop"]) == []
    shutil.rmtree(tmp_path / "repository")
    assert "The repository on disk is gone" in saver.run(["shop"])[0]
    assert not (tmp_path / "repository").exists()
    moved = replace(chosen, targets=(Target("disk", str(tmp_path / "new")),))
    assert Saver(moved, cache=None, **folders).run(["shop"]) == []  # the first time there
    shutil.rmtree(tmp_path / "new")
    monkeypatch.setattr(main, "load", lambda: moved)
    monkeypatch.setattr(main, "Saver", lambda given: Saver(given, cache=None, **folders))
    assert main.main(["forget-repository", "disk"]) == 0
    assert "the next backup starts a new one" in capsys.readouterr().out
    assert Saver(moved, cache=None, **folders).run(["shop"]) == []


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        (Target("box", "sftp:x:/x", ssh="nobody@127.0.0.1", port=1), "cannot be reached"),
        (Target("store", "rclone:web1", ssh="nobody@127.0.0.1", port=1), "cannot be reached"),
    ],
)
def test_a_target_that_is_down_is_named(
    make: Make, folders: dict[str, Any], target: Target, cause: str, tmp_path: Path
) -> None:
    chosen = make(targets=(target, Target("disk", str(tmp_path / "repository"))))
    failures = Saver(chosen, cache=None, **folders).run([])
    assert len(failures) == 1
    assert f"The target {target.name} {cause}" in failures[0]
    assert Restorer(chosen, **folders).backups("disk")  # the other target got its backup


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("Fatal: unable to save snapshot: write: no space left on device", "is full"),
        ("Fatal: unable to create lock in backend: repository is already locked by PID 1", "Another run uses"),
        ("client.PutObject: Access Denied.", "refused it"),
        ("Fatal: unable to open config file: x\nIs there a repository at the following location?", "has no repository"),
        ("Load(<data/1>): ciphertext verification failed", "is damaged"),
        ("nobody@host: Permission denied (publickey).", "does not accept the login"),
        ("rclone: Permission denied (publickey).\nFatal: error talking HTTP to rclone", "does not accept the login"),
        ("Fatal: error talking HTTP to rclone: unexpected EOF", "cannot be reached"),
        (
            "Fatal: unable to open repository at sftp:x: unable to start the sftp session, error: EOF",
            "cannot be reached",
        ),
        ("something new", "restic failed for the target disk: something new"),
    ],
)
def test_errors_of_restic_are_explained(said: str, meaning: str) -> None:
    assert meaning in engine.explain("disk", said)


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
    assert saver.prune(saver.settings.target()) == 1
    assert len(restorer.backups()) == 1
    saver.check(saver.settings.target())
    replaced(restorer)
    assert (data / "uploads/a.txt").read_text() == "two"


# --- the drill ------------------------------------------------------------------------------------------------------


def test_the_drill_restores_checks_and_cleans_up(saver: Saver, make: Make, folders: dict[str, Any], data: Path) -> None:
    database(data / "app.db", 10).close()
    saver.run([])
    assert Drill(make(drill_command="sh -c 'test -f $DATA_DIR/app.db && test $APP = shop'"), **folders).run([]) == []
    found = status.Status(folders["state"]).read()["drills"]["shop"]
    assert found["error"] == ""
    assert (found["files"], found["sqlite"]) == (3, 1)
    assert list((folders["state"] / "drill").iterdir()) == []


def test_the_drill_reports_a_damaged_database_and_a_command_that_fails(
    saver: Saver, make: Make, folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    saver.run([])
    chosen = make(drill_command="sh -c 'echo no octopus; exit 3'")
    assert "exit status 3: no octopus" in Drill(chosen, **folders).run([])[0]
    monkeypatch.setattr(drill, "problems", lambda _: ["app.db: malformed"])
    assert "Damaged SQLite databases in the backup of shop: app.db" in Drill(make(), **folders).run([])[0]


def test_a_data_folder_that_is_a_link_is_an_error(saver: Saver, data: Path) -> None:
    data.rename(data.with_name("elsewhere"))
    data.symlink_to("elsewhere")
    assert "is a symbolic link" in saver.run([])[0]


# --- hostile names and links ----------------------------------------------------------------------------------------


def test_a_link_to_another_database_is_not_followed(tmp_path: Path, data: Path, make: Make) -> None:
    make()
    database(tmp_path / "secret.db", 3).close()
    (data / "link.db").symlink_to(tmp_path / "secret.db")
    assert copies.copy_all(data, tmp_path / "stage") == []


@pytest.mark.parametrize("swapped", ["the database", "its folder"])
def test_a_database_that_is_swapped_for_a_link_while_sqlite_opens_it_is_not_copied(
    make: Make, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    make()
    for folder in (data / "own", tmp_path / "secret"):
        folder.mkdir()
        database(folder / "app.db", 3).close()
    given = data / "own" if swapped == "its folder" else data / "own/app.db"
    secret = tmp_path / "secret" / given.relative_to(data / "own")
    real = sqlite3.connect

    def connect(path: Any, **options: Any) -> sqlite3.Connection:
        if "own/app.db" not in str(path) or "stage" in str(path):
            return real(path, **options)
        given.rename(tmp_path / "aside")
        given.symlink_to(secret)
        opened = real(path, **options)
        opened.execute("SELECT count(*) FROM sqlite_master").fetchone()
        given.unlink()
        (tmp_path / "aside").rename(given)
        return opened

    monkeypatch.setattr(sqlite3, "connect", connect)
    monkeypatch.setattr(Path, "resolve", lambda path: path)  # as if that was before the swap
    assert copies.copy_all(data, tmp_path / "stage") == []
    assert not (tmp_path / "stage/own/app.db").exists()


def test_a_database_that_is_swapped_for_a_link_before_its_bytes_are_copied_is_not_copied(
    make: Make, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    database(data / "app.db", 3).close()
    database(tmp_path / "secret.db", 3).close()
    (data / "app.db-wal").write_bytes(b"")

    def swap(*_: Any, **__: Any) -> None:
        (data / "app.db").unlink()
        (data / "app.db").symlink_to(tmp_path / "secret.db")
        raise sqlite3.OperationalError

    monkeypatch.setattr(copies, "read", swap)
    assert copies.copy_all(data, tmp_path / "stage") == []
    assert not os.path.lexists(tmp_path / "stage/app.db")


def test_a_copy_that_is_a_link_in_the_backup_is_refused(tmp_path: Path) -> None:
    for folder in ("data", "copies"):
        (tmp_path / folder).mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "copies/app.db").symlink_to(tmp_path / "secret")
    entry = {"path": "app.db", "mode": 0o600, "uid": os.getuid(), "gid": os.getgid()}
    with pytest.raises(BackupError, match=r"app\.db cannot be restored"):
        placing.put_copies(tmp_path / "copies", tmp_path / "data", [entry])
    assert list((tmp_path / "data").iterdir()) == []


def test_a_database_is_never_put_behind_a_link(tmp_path: Path) -> None:
    for folder in ("data", "copies/inner", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "copies/inner/app.db").write_text("x")
    (tmp_path / "data/inner").symlink_to(tmp_path / "elsewhere")
    entry = {"path": "inner/app.db", "mode": 0o600, "uid": os.getuid(), "gid": os.getgid()}
    with pytest.raises(BackupError, match=r"inner/app\.db cannot be restored"):
        placing.put_copies(tmp_path / "copies", tmp_path / "data", [entry])
    assert list((tmp_path / "elsewhere").iterdir()) == []
    with pytest.raises(BackupError, match="not in the data folder"):
        placing.put_copies(tmp_path / "copies", tmp_path / "data", [entry | {"path": "../app.db"}])


def test_a_database_whose_name_is_a_pattern_is_saved(saver: Saver, restorer: Restorer, data: Path) -> None:
    database(data / "a[b]*.db", 7).close()
    (data / "ab.db").write_text("kept")
    assert saver.run([]) == []
    replaced(restorer)
    assert count(data / "a[b]*.db") == 7
    assert (data / "ab.db").read_text() == "kept"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_files_belong_to_the_app_although_its_number_differs_on_this_host(
    saver: Saver, restorer: Restorer, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "account", lambda _: {"uid": 60001, "gid": 60001})
    database(data / "app.db", 1).close()
    for path in (data, *data.rglob("*")):
        os.chown(path, 60001, 60001, follow_symlinks=False)
    os.chown(data / "uploads/a.txt", 0, 60001)
    saver.run([])
    monkeypatch.setattr(restoring, "account_of", lambda _: type("account", (), {"pw_uid": 60002, "pw_gid": 60003}))
    replaced(restorer)
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in data.rglob("*")} == {(60002, 60003), (0, 60003)}
    assert data.stat().st_uid == 60002


def forge(data: Path, state: Path, kind: str) -> None:
    """Change the stage and the data before they are saved, as a user who can write to the repository may."""
    if kind == "folder":
        shutil.rmtree(data)
        data.symlink_to("/etc")
    elif kind == "manifest":
        (state / "stage/shop" / saving.MANIFEST).rename(state / "stage/shop/other")
        (state / "stage/shop" / saving.MANIFEST).symlink_to("other")
    elif os.getuid() == 0:
        os.mknod(data / "disk", 0o660 | stat.S_IFBLK, os.makedev(7, 0))
        (data / "uploads/a.txt").chmod(0o4755)


@pytest.mark.parametrize("kind", ["folder", "manifest"])
def test_a_link_in_a_backup_leads_a_restore_nowhere(
    saver: Saver, restorer: Restorer, data: Path, folders: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Restic.save_files

    def save(restic: Restic, *given: Any) -> engine.Saved:
        forge(data, folders["state"], kind)
        return real(restic, *given)

    saver.engine(saver.settings.target()).create()
    monkeypatch.setattr(Restic, "save_files", save)
    assert saver.run(["shop"]) == []
    with pytest.raises(BackupError, match="has a link or a device at"):
        restorer.prepare("shop", replace=True)
    assert list(data.parent.glob(".restore-*")) == []


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_a_restore_creates_no_devices_and_no_files_that_run_as_another_user(
    saver: Saver, restorer: Restorer, data: Path, folders: dict[str, Any]
) -> None:
    forge(data, folders["state"], "privileges")
    assert saver.run([]) == []
    replaced(restorer)
    assert (data / "uploads/a.txt").stat().st_mode & 0o7777 == 0o755
    assert not (data / "disk").exists()


@pytest.mark.parametrize("name", ["lock", "status.json", "status.lock"])
def test_root_follows_no_link_in_the_folder_that_it_shares(saver: Saver, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"secret": 1}')
    secret.chmod(0o600)
    (tmp_path / "state/shared" / name).symlink_to(secret)
    with contextlib.suppress(OSError):
        status.Status(saver.state).record("settings", since=1)
        with status.locked(status.shared(saver.state) / "lock"):
            pass
    assert secret.read_text() == '{"secret": 1}'
    assert secret.stat().st_mode & 0o777 == 0o600
    assert "secret" not in status.Status(saver.state).read()


def test_root_lets_the_unit_make_a_backup(
    make: Make, folders: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = make()
    monkeypatch.setattr(main, "load", lambda: chosen)
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


# --- append-only ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("rclone"), reason="rclone is not installed")
def test_a_host_can_add_but_not_delete_where_the_forced_command_says_so(
    make: Make, folders: dict[str, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "forced").write_text(
        f"#!/bin/sh\nexec rclone --config '' serve restic --stdio --append-only {tmp_path}/store\n"
    )
    (tmp_path / "forced").chmod(0o755)
    monkeypatch.setattr(Restic, "ssh_command", lambda _: [str(tmp_path / "forced")])
    chosen = make(targets=(Target("store", "rclone:web1", ssh="x@y", append_only=True),))
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
    assert len(restic.snapshots()) == 2  # and the lock of the dead process is removed
    (data / "uploads/a.txt").unlink()
    replaced(Restorer(chosen, **folders))
    assert (data / "uploads/a.txt").read_text() == "ahoy"


# --- the command line -----------------------------------------------------------------------------------------------


def test_the_commands_of_the_guide(
    make: Make,
    folders: dict[str, Any],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = make()
    monkeypatch.setattr(main, "load", lambda: chosen)
    monkeypatch.setattr(main, "Saver", lambda given: Saver(given, cache=None, **folders))
    monkeypatch.setattr(main, "Restorer", lambda given: Restorer(given, **folders))
    monkeypatch.setattr(main, "Drill", lambda given: Drill(given, **folders))
    monkeypatch.setattr(main, "is_root", lambda: False)
    for command in (["run", "all"], ["drill", "shop"], ["check"], ["list"], ["prune", "disk"]):
        assert main.main(command) == 0, command
    assert main.main(["restore", "shop"]) == 1
    assert "-e yes=replace" in capsys.readouterr().err
    assert main.main(["restore", "shop", "--yes", "replace"]) == 0
    assert "shop is as in the backup of" in capsys.readouterr().out
    assert main.main(["restore", "shop", "--as", "shop-copy"]) == 0
    assert main.main(["remove-copy", "shop"]) == 1
    assert main.main(["remove-copy", "shop-copy"]) == 0
    assert not (data.parent.parent / "shop-copy").exists()
    assert main.main(["former", "shop", "--delete", "--json"]) == 0
    assert "data.before-" in json.loads(capsys.readouterr().out.splitlines()[-1])[0]
    assert main.main(["run", "octopus"]) == 1
    assert "This host saves no app octopus. It saves: shop." in capsys.readouterr().err


def test_a_step_that_the_system_refuses_is_an_error_and_no_trace(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = make()
    monkeypatch.setattr(main, "load", lambda: chosen)

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
