"""Let nginx read certain folders of an app's data, and nothing else of it.

nginx gets an access control list of its own: the permission to enter the folders above, and to read the folder and what
the app creates in it. Owner, group and mode stay those of the app. The app owns its data and can put links anywhere, so
each folder is opened from the one above it without following a link.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from pathlib import Path

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
# Tags of the entries of a list, as in linux/posix_acl.h.
OWNER, USER, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
NOBODY = 0xFFFFFFFF  # the ID of entries that need none
READ, ENTER = 4, 1


class FolderError(OSError):
    """nginx can't get access to a folder; the message is the reason."""


def acl(mode: int, reader: int, permission: int) -> bytes:
    """An access control list, as in linux/posix_acl_xattr.h: the mode of a file, and a permission for one more user."""
    group, mask = mode >> 3 & 7, (mode >> 3 & 7) | permission
    entries = [
        (OWNER, mode >> 6 & 7, NOBODY),
        (USER, permission, reader),
        (GROUP, group, NOBODY),
        (MASK, mask, NOBODY),
        (OTHER, mode & 7, NOBODY),
    ]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def permission_of(descriptor: int, reader: int, name: str = ACCESS) -> int:
    """The permission that the list of an open file gives to a user, as far as its mask allows; 0 without a list."""
    try:
        content = os.getxattr(descriptor, name)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return 0
        raise
    entries = list(struct.iter_unpack("<HHI", content[4:]))
    mask = next((permission for tag, permission, _ in entries if tag == MASK), 7)
    return next((permission & mask for tag, permission, who in entries if tag == USER and who == reader), 0)


def grant(descriptor: int, reader: int, permission: int, inherit: bool = False) -> bool:
    """Give a user a permission for an open file or folder, on request also for what is created in it.

    Returns:
        Whether that changed anything.
    """
    changed = False
    for name in (ACCESS, DEFAULT) if inherit else (ACCESS,):
        if permission_of(descriptor, reader, name) & permission != permission:
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
            os.setxattr(descriptor, name, acl(mode, reader, permission))
            changed = True
    return changed


def open_folder(name: str, parent: int, owner: tuple[int, int]) -> int:
    """Open a folder below an open one; create it for its owner if it does not exist.

    Raises:
        FolderError: when it is a link, or no folder.
    """
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
        is_new = True
    except FileExistsError:
        is_new = False
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise FolderError("is a link, or not a folder. Replace it with a folder") from None
        raise
    if is_new:
        os.fchmod(descriptor, 0o750)
        os.fchown(descriptor, *owner)
    return descriptor


def let_read(data: Path, path: str, owner: tuple[int, int], reader: int) -> None:
    """Let a user read a folder below an app's data, and all that it contains; create it if it does not exist.

    Args:
        data: the folder of the app's data. Only root can replace it.
        path: the folder, relative to the data.
        owner: user and group of the app.
        reader: the user who may read it.

    Raises:
        FolderError: when a part of the path is a link, or not a folder, or the file system has no access control lists.
    """
    folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        parts = Path(path).parts
        for number, part in enumerate(parts, start=1):
            grant(folder, reader, ENTER)
            try:
                inner = open_folder(part, folder, owner)
            except FolderError as error:
                raise FolderError(f"{data / Path(*parts[:number])} {error}.") from None
            os.close(folder)
            folder = inner
        # Files in it are changed only when the folder is: there may be many.
        if grant(folder, reader, READ | ENTER, inherit=True):
            let_read_content(folder, owner, reader)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise FolderError(f"{data}: its file system has no access control lists.") from None
        raise
    finally:
        os.close(folder)


def let_read_content(top: int, owner: tuple[int, int], reader: int) -> None:
    """Let a user read what an open folder contains already, as far as it belongs to the app."""
    for _, folders, files, descriptor in os.fwalk(".", dir_fd=top):
        for name in (*folders, *files):
            try:
                inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
            except OSError:  # a link, a socket, or removed
                continue
            try:
                found = os.fstat(inner)
                if found.st_uid == owner[0] and stat.S_ISDIR(found.st_mode):
                    grant(inner, reader, READ | ENTER, inherit=True)
                elif found.st_uid == owner[0] and stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                    grant(inner, reader, READ)
            finally:
                os.close(inner)
