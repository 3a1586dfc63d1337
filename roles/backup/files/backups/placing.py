"""Move restored files to their folders. An app can choose the names and links in its data, so no link is followed.

Nor is anything in a backup trusted: users with fewer rights than root write it.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

from backups.settings import BackupError

SPARE = 64 * 2**20  # bytes that have to stay free


def check_space(needed: Mapping[Path, int]) -> None:
    """Check the free space before something is written.

    Args:
        needed: bytes for each folder; folders of one file system share its space.

    Raises:
        BackupError: when a file system has not enough.
    """
    disks: dict[int, list[Path]] = {}
    for folder in needed:
        disks.setdefault(folder.stat().st_dev, []).append(folder)
    for folders in disks.values():
        total, free = sum(needed[folder] for folder in folders), shutil.disk_usage(folders[0]).free
        if total + SPARE > free:
            raise BackupError(
                f"The restore needs {total >> 20} MiB, but the disk of {' and '.join(map(str, folders))} has "
                f"{free >> 20} MiB free. Nothing was changed."
            )


def open_below(top: Path, parts: tuple[str, ...]) -> int:
    """Open a folder below another one.

    Raises:
        OSError: when a part of the path is a link, or no folder.
    """
    folder = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    for part in parts:
        try:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
        finally:
            os.close(folder)
        folder = inner
    return folder


def open_inside(top: Path, path: PurePosixPath, flags: int) -> IO[bytes]:
    """Open a file below a folder.

    Raises:
        OSError: when it, or a part of its path, is a link, or does not exist.
    """
    folder = open_below(top, path.parts[:-1])
    try:
        opened = os.open(path.name, flags | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    finally:
        os.close(folder)
    return os.fdopen(opened, "wb" if flags & os.O_WRONLY else "rb")


def restored(folder: Path, path: Path) -> Path:
    """The place of something that was restored below a folder.

    Args:
        folder: the folder, in which nobody else can change anything.
        path: its absolute path in the backup.

    Raises:
        BackupError: when the backup does not have it, or has a link in its path.
    """
    try:
        parent = open_below(folder, path.parts[1:-1])
        try:
            found = os.stat(path.name, dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)
    except OSError as error:
        raise BackupError(f"The backup has no {path}: {error.strerror}.") from None
    if not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        raise BackupError(f"The backup has a link or a device at {path}. Nothing was changed.")
    return Path(f"{folder}{path}")


def remove_privileges(folder: Path) -> None:
    """Remove devices, and the bits that let a file run as another user: an app needs neither, and can't create all."""
    for _root, _folders, names, descriptor in os.fwalk(folder):
        for name in names:
            found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if stat.S_ISBLK(found.st_mode) or stat.S_ISCHR(found.st_mode):
                os.unlink(name, dir_fd=descriptor)
            elif stat.S_ISREG(found.st_mode) and found.st_mode & (stat.S_ISUID | stat.S_ISGID):
                os.chmod(name, found.st_mode & 0o777, dir_fd=descriptor)


def put_copies(copies: Path, data: Path, described: list[dict[str, Any]]) -> None:
    """Put copies of SQLite databases into a data folder, with their modes and owners.

    Args:
        copies: folder with the copies, at the same paths as in the data folder.
        data: the data folder.
        described: `path`, `mode`, `uid` and `gid` of each.

    Raises:
        BackupError: when a path leads elsewhere.
    """
    for one in described:
        path = PurePosixPath(one["path"])
        if path.is_absolute() or ".." in path.parts:
            raise BackupError(f"The backup has a database at {path}, which is not in the data folder.")
        create = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        if not os.path.lexists((data / path).parent):
            continue  # backup_exclude leaves out its folder
        try:
            with (
                open_inside(copies, path, os.O_RDONLY) as source,
                open_inside(data, path, create) as to,
            ):
                shutil.copyfileobj(source, to)
                if os.geteuid() == 0:
                    os.fchown(to.fileno(), one["uid"], one["gid"])
                os.fchmod(to.fileno(), one["mode"] & 0o777)
        except OSError as error:
            raise BackupError(f"The database {path} can't be restored: {error.strerror} in its path.") from None


def give_to(folder: Path, before: tuple[int, int], after: tuple[int, int]) -> None:
    """Give what belonged to a user and group to others, when the numbers of an app differ between two hosts."""
    if before == after:
        return
    for _root, folders, names, descriptor in os.fwalk(folder, topdown=False):
        for name in (*folders, *names):
            found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            own = (exchanged(found.st_uid, before[0], after[0]), exchanged(found.st_gid, before[1], after[1]))
            if own != (found.st_uid, found.st_gid):
                os.chown(name, *own, dir_fd=descriptor, follow_symlinks=False)
    found = folder.stat()
    os.chown(folder, exchanged(found.st_uid, before[0], after[0]), exchanged(found.st_gid, before[1], after[1]))


def exchanged(number: int, before: int, after: int) -> int:
    return after if number == before else number
