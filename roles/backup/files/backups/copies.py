"""Consistent copies of SQLite databases.

The file of a database that is being written may be inconsistent when it is read, and it lacks what is still in its
write-ahead log. So each one is copied with SQLite's own backup function, and the copy is saved in its place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator
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


class Replaced(OSError):
    """A file was removed, or another one is in its place: the app may change its files at any time."""


@dataclass(frozen=True)
class Database:
    """A database and the files beside it. The app owns the names of all of them, and none of them is trusted.

    Args:
        path: its path, through folders that may become links in the meantime.
        folder: descriptor of its folder, until the next database is looked for.
        about: what was found there.
    """

    path: Path
    folder: int
    about: os.stat_result

    @property
    def identity(self) -> tuple[int, int]:
        return self.about.st_dev, self.about.st_ino

    def beside(self, end: str = "") -> os.stat_result | None:
        """A regular file beside the database, or the database itself; None without one."""
        with contextlib.suppress(OSError):
            found = os.stat(self.path.name + end, dir_fd=self.folder, follow_symlinks=False)
            return found if stat.S_ISREG(found.st_mode) else None
        return None

    def logs(self) -> list[str]:
        """The ends of the names of the logs that exist."""
        return [end for end in ("-wal", "-journal") if self.beside(end)]

    def version(self) -> tuple[int, int, list[str]]:
        """What differs after a change.

        Raises:
            Replaced: when it is another file.
        """
        found = self.beside()
        if not found or (found.st_dev, found.st_ino) != self.identity:
            raise Replaced(f"{self.path} was replaced")
        return found.st_mtime_ns, found.st_size, self.logs()

    def save(self, end: str, to: Path) -> None:
        """Copy the bytes of the database, or of a file beside it."""
        opened = open_file(self.path.name + end, self.folder)
        with os.fdopen(opened, "rb") as source, to.open("wb") as target:
            found = os.fstat(opened)
            if not end and (found.st_dev, found.st_ino) != self.identity:
                raise Replaced(f"{self.path} was replaced")
            shutil.copyfileobj(source, target)

    def check_opened(self, opened: Iterable[tuple[int, int]]) -> None:
        """Check which files SQLite has opened by their paths.

        Args:
            opened: device and inode of each.

        Raises:
            Replaced: when one is not a file of this database.
        """
        own = {(found.st_dev, found.st_ino) for end in SIDE_FILES if (found := self.beside(end))} | {self.identity}
        if not own.issuperset(opened):
            raise Replaced(f"{self.path} was replaced")


def open_files() -> dict[int, tuple[int, int]]:
    """The descriptors of this process, with device and inode."""
    found = {}
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # that of the list itself is closed
            about = os.fstat(descriptor)
            found[descriptor] = (about.st_dev, about.st_ino)
    return found


def open_file(name: str, folder: int) -> int:
    """Open a regular file for reading; a link is not followed.

    Raises:
        Replaced: when it is a link, or no file.
        OSError: when it can't be opened.
    """
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Replaced(f"{name} is a link") from None
        raise
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise Replaced(f"{name} is no file")
    return opened


def databases(folder: Path) -> Iterator[Database]:
    """The SQLite databases below a folder. Links are not followed."""
    for root, _folders, names, descriptor in os.fwalk(folder):
        for name in names:
            if name.endswith(SIDE_FILES):
                continue
            with contextlib.suppress(OSError):  # removed in the meantime, or a link
                opened = open_file(name, descriptor)
                try:
                    found, is_database = os.fstat(opened), os.read(opened, len(HEADER)) == HEADER
                finally:
                    os.close(opened)
                if is_database:
                    yield Database(Path(root) / name, descriptor, found)


def copy_all(folder: Path, into: Path) -> list[Copied]:
    """Copy all SQLite databases below a folder to the same paths below another one.

    Raises:
        sqlite3.Error: when one can't be read.
    """
    copied = []
    for database in databases(folder):
        inner, found = database.path.relative_to(folder), database.about
        (into / inner).parent.mkdir(parents=True, exist_ok=True)
        try:
            copy(database, into / inner)
        except (Replaced, FileNotFoundError):
            (into / inner).unlink(missing_ok=True)
            continue
        except sqlite3.Error as error:
            raise sqlite3.Error(f"{database.path}: {error}") from error
        copied.append(Copied(str(inner), stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid))
    return copied


def copy(database: Database, to: Path) -> None:
    """Copy one database as of one moment.

    Raises:
        Replaced: when another file is in its place.
        sqlite3.Error: when it can't be read.
    """
    for attempt in range(TRIES):
        to.unlink(missing_ok=True)
        before = database.version()
        try:
            read(database, to, immutable=False)
            return
        except sqlite3.OperationalError:
            # SQLite needs an index for a write-ahead log, and this user can't create one here. Without a log, nobody
            # has the database open, and the file alone is the database; with one, the copy gets its log.
            if database.logs():
                recover(database, to)
            else:
                read(database, to, immutable=True)
            if database.version() == before:
                return
            if attempt == TRIES - 1:
                raise
            time.sleep(1)


def read(database: Database, to: Path, immutable: bool) -> None:
    """Copy a database with SQLite's backup function, which opens it by its path."""
    uri = database.path.as_uri() + "?mode=ro" + ("&immutable=1" if immutable else "")
    with contextlib.closing(sqlite3.connect(to)) as target:
        before = open_files()
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=BUSY, isolation_level=None)) as source:
            source.execute("BEGIN")  # until the end, SQLite reads only the files that are open now
            source.execute("SELECT count(*) FROM sqlite_master").fetchone()
            database.check_opened(dict(open_files().items() - before.items()).values())
            source.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")


def recover(database: Database, to: Path) -> None:
    """Copy a database and the log that a crash has left beside it, and let SQLite apply the log to the copy."""
    for end in ("", *database.logs()):
        database.save(end, Path(f"{to}{end}"))
    with contextlib.closing(sqlite3.connect(to)) as copied:
        copied.execute("SELECT count(*) FROM sqlite_master").fetchone()
        copied.execute("PRAGMA journal_mode=DELETE")
    for end in SIDE_FILES:
        Path(f"{to}{end}").unlink(missing_ok=True)


def problems(folder: Path) -> list[str]:
    """The damaged SQLite databases below a folder, with their errors."""
    found = []
    for path in (one.path for one in databases(folder)):
        try:
            with contextlib.closing(sqlite3.connect(path.as_uri() + "?immutable=1", uri=True)) as database:
                result = str(database.execute("PRAGMA integrity_check(1)").fetchone()[0])
        except sqlite3.Error as error:
            result = str(error)
        if result != "ok":
            found.append(f"{path.relative_to(folder)}: {result}")
    return found
