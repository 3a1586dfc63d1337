"""Hostile names, links and devices in the data of an app, in its backups, and in the folders of the program."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
from backup_data import Make, count, database, replaced
from backups import copies, engine, placing, restoring, saving, status
from backups.engine import Restic
from backups.restoring import Restorer
from backups.saving import Saver
from backups.settings import BackupError

pytestmark = [pytest.mark.needs("restic"), pytest.mark.slow]


def test_a_data_folder_that_is_a_link_is_an_error(saver: Saver, data: Path) -> None:
    data.rename(data.with_name("elsewhere"))
    data.symlink_to("elsewhere")
    assert "is a symbolic link" in saver.run([])[0]


def test_a_link_to_another_database_is_not_followed(tmp_path: Path, data: Path, new_settings: Make) -> None:
    new_settings()
    database(tmp_path / "secret.db", 3).close()
    (data / "link.db").symlink_to(tmp_path / "secret.db")
    assert copies.copy_all(data, tmp_path / "stage") == []


@pytest.mark.parametrize("swapped", ["the database", "its folder"])
def test_a_database_that_is_swapped_for_a_link_while_sqlite_opens_it_is_not_copied(
    new_settings: Make, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    new_settings()
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
    new_settings: Make, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_settings()
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
    with pytest.raises(BackupError, match=r"app\.db can't be restored"):
        placing.put_copies(tmp_path / "copies", tmp_path / "data", [entry])
    assert list((tmp_path / "data").iterdir()) == []


def test_a_database_is_never_put_behind_a_link(tmp_path: Path) -> None:
    for folder in ("data", "copies/inner", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "copies/inner/app.db").write_text("x")
    (tmp_path / "data/inner").symlink_to(tmp_path / "elsewhere")
    entry = {"path": "inner/app.db", "mode": 0o600, "uid": os.getuid(), "gid": os.getgid()}
    with pytest.raises(BackupError, match=r"inner/app\.db can't be restored"):
        placing.put_copies(tmp_path / "copies", tmp_path / "data", [entry])
    assert list((tmp_path / "elsewhere").iterdir()) == []
    with pytest.raises(BackupError, match="not in the data folder"):
        placing.put_copies(tmp_path / "copies", tmp_path / "data", [entry | {"path": "../app.db"}])


def test_a_copy_that_is_missing_in_the_backup_is_an_error(tmp_path: Path) -> None:
    for folder in ("data", "copies"):
        (tmp_path / folder).mkdir()
    entry = {"path": "app.db", "mode": 0o600, "uid": os.getuid(), "gid": os.getgid()}
    with pytest.raises(BackupError, match=r"app\.db can't be restored"):
        placing.put_copies(tmp_path / "copies", tmp_path / "data", [entry])


def test_a_database_whose_name_is_a_pattern_is_saved(saver: Saver, restorer: Restorer, data: Path) -> None:
    database(data / "a[b]*.db", 7).close()
    (data / "ab.db").write_text("kept")
    assert saver.run([]) == []
    replaced(restorer)
    assert count(data / "a[b]*.db") == 7
    assert (data / "ab.db").read_text() == "kept"


@pytest.mark.needs("root")
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


@pytest.mark.needs("root")
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
