"""Consistent copies of SQLite databases.

The file of a database that is being written may be inconsistent when it is read, and it lacks what is still in its
write-ahead log. So each one is copied with SQLite's own backup function, and the copy is saved in its place.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HEADER = b"SQLite format 3\0"
SIDE_FILES = ("-wal", "-shm", "-journal")
TRIES = 3
BUSY = 30.0  # seconds to wait for a writer


@dataclass(frozen=True)
class Copied:
    """A copied database: its path below the data folder, and its mode."""

    path: str
    mode: int
    uid: int
    gid: int


def databases(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The SQLite databases below a folder. Links are not followed."""
    for root, _folders, names, descriptor in os.fwalk(folder):
        for name in names:
            if name.endswith(SIDE_FILES):
                continue
            with contextlib.suppress(OSError):  # removed in the meantime, or a link
                opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
                try:
                    found = os.fstat(opened)
                    if stat.S_ISREG(found.st_mode) and os.read(opened, len(HEADER)) == HEADER:
                        yield Path(root) / name, found
                finally:
                    os.close(opened)


def copy_all(folder: Path, into: Path) -> list[Copied]:
    """Copy all SQLite databases below a folder to the same paths below another one.

    Raises:
        sqlite3.Error: when one can't be read.
    """
    copied = []
    for path, found in databases(folder):
        inner = path.relative_to(folder)
        (into / inner).parent.mkdir(parents=True, exist_ok=True)
        try:
            copy(path, into / inner, (found.st_dev, found.st_ino))
        except FileNotFoundError:  # removed in the meantime
            continue
        except sqlite3.Error as error:
            raise sqlite3.Error(f"{path}: {error}") from error
        copied.append(Copied(str(inner), stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid))
    return copied


def copy(path: Path, to: Path, identity: tuple[int, int]) -> None:
    """Copy one database as of one moment.

    Args:
        path: the database.
        to: the copy.
        identity: device and inode of the database; another file in its place is refused.
    """
    for attempt in range(TRIES):
        to.unlink(missing_ok=True)
        logs = [Path(f"{path}{end}") for end in ("-wal", "-journal")]
        quiet = not any(log.exists() for log in logs)
        try:
            read(path, to, identity, immutable=False)
            return
        except sqlite3.OperationalError:
            # SQLite needs an index for a write-ahead log, and this user can't create one here. Without a log, nobody
            # has the database open, and the file alone is the database; with one, the copy gets its log.
            before = path.stat()
            if quiet:
                read(path, to, identity, immutable=True)
            else:
                recover(path, to)
            after = path.stat()
            same = (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)
            if same and quiet == (not any(log.exists() for log in logs)):
                return
            if attempt == TRIES - 1:
                raise
            time.sleep(1)


def read(path: Path, to: Path, identity: tuple[int, int], immutable: bool) -> None:
    """Copy a database with SQLite's backup function."""
    uri = path.resolve().as_uri() + "?mode=ro" + ("&immutable=1" if immutable else "")
    with (
        contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY)) as source,
        contextlib.closing(sqlite3.connect(to)) as target,
    ):
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
        opened = Path(source.execute("PRAGMA database_list").fetchone()[2])
        found = opened.lstat()
        if opened != path or (found.st_dev, found.st_ino) != identity:
            raise FileNotFoundError(f"{path} was replaced")
        source.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")


def recover(path: Path, to: Path) -> None:
    """Copy a database and the log that a crash has left beside it, and let SQLite apply the log to the copy."""
    shutil.copyfile(path, to, follow_symlinks=False)
    for end in ("-wal", "-journal"):
        log = Path(f"{path}{end}")
        if log.exists():
            shutil.copyfile(log, f"{to}{end}", follow_symlinks=False)
    with contextlib.closing(sqlite3.connect(to)) as copied:
        copied.execute("SELECT count(*) FROM sqlite_master").fetchone()
        copied.execute("PRAGMA journal_mode=DELETE")
    for end in SIDE_FILES:
        Path(f"{to}{end}").unlink(missing_ok=True)


def problems(folder: Path) -> list[str]:
    """The damaged SQLite databases below a folder, with what is wrong."""
    found = []
    for path, _ in databases(folder):
        try:
            with contextlib.closing(sqlite3.connect(path.as_uri() + "?immutable=1", uri=True)) as database:
                result = str(database.execute("PRAGMA integrity_check(1)").fetchone()[0])
        except sqlite3.Error as error:
            result = str(error)
        if result != "ok":
            found.append(f"{path.relative_to(folder)}: {result}")
    return found
