#!/usr/bin/python3 -IB
"""A store of files to which a host adds, and from which it reads. No file is ever changed.

    store.py [--append-only] FOLDER [put NAME SIZE | list | get NAME | delete NAME]

sshd runs it for the key of a host, with the folder of that host; the words after the folder are then those of the SSH
client. A host that is the target of its own backups runs it directly. It imports nothing of this program, so that it is
one file on the host that keeps the backups.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

NAME = re.compile(r"[0-9a-f]{32}-\d{8}T\d{6}\.\d{6}Z\.tar")
PART = ".part-"  # beginning of the name of a file that is not complete
CHUNK = 2**20  # bytes


class StoreError(Exception):
    """The store refuses a request."""


def checked(name: str) -> str:
    """A name of a file in the store.

    Raises:
        StoreError: when it is none.
    """
    if not NAME.fullmatch(name):
        raise StoreError(f"{name[:80]!r} is not a name of this store")
    return name


def put(folder: Path, name: str, size: int) -> None:
    """Store the input as a new file. It has its name only when it is complete and on the disk.

    Raises:
        StoreError: when the file exists, or the input is shorter than its size.
    """
    if (folder / checked(name)).exists():
        raise StoreError(f"{name} exists; a file is never changed")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in folder.glob(f"{PART}*"):  # of a connection that broke; each host has one connection at a time
        left.unlink(missing_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=PART, delete=False) as file:
        missing = size
        while missing > 0 and (chunk := sys.stdin.buffer.read(min(CHUNK, missing))):
            file.write(chunk)
            missing -= len(chunk)
        file.flush()
        os.fsync(file.fileno())
    if missing:
        os.unlink(file.name)
        raise StoreError(f"{name} has ended {missing} bytes too early")
    os.link(file.name, folder / name)  # fails when it exists
    os.unlink(file.name)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def listed(folder: Path) -> list[str]:
    """The names of the complete files and their sizes, the oldest first."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        return sorted(f"{one.name} {one.stat().st_size}" for one in entries if NAME.fullmatch(one.name))
    return []


def call(folder: Path, words: list[str], append_only: bool) -> None:
    """Do what is asked for.

    Raises:
        StoreError: when that is refused.
    """
    match words:
        case ["put", name, size] if size.isdecimal():
            put(folder, name, int(size))
        case ["list"]:
            print("".join(f"{line}\n" for line in listed(folder)), end="")
        case ["get", name]:
            with (folder / checked(name)).open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
        case ["delete", name] if not append_only:
            (folder / checked(name)).unlink(missing_ok=True)
        case ["delete", _]:
            raise StoreError("this key can only add files and read them")
        case _:
            raise StoreError("put NAME SIZE, list, get NAME or delete NAME")


def main(argv: list[str]) -> int:
    append_only = argv[:1] == ["--append-only"]
    folder, *words = argv[append_only:]
    if "SSH_ORIGINAL_COMMAND" in os.environ:
        words = os.environ["SSH_ORIGINAL_COMMAND"].split()[1:]  # after the word by which sshd's command finds the store
    try:
        call(Path(folder), words, append_only)
    except (StoreError, OSError) as error:
        print(f"store: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
