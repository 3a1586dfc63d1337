"""Read files of a host, replace them atomically, and show them in a diff."""

from __future__ import annotations

import os
from pathlib import Path


def read(path: Path) -> str:
    """A file's content; empty when it does not exist, or is no file."""
    return path.read_text(errors="replace") if path.is_file() else ""


def read_untrusted(path: Path) -> str:
    """The content of a file in a folder that users with fewer rights can write to; a link is not followed.

    Raises:
        OSError: when it can't be read, or is a link.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe does not wait for a writer
    with os.fdopen(os.open(path, flags)) as file:
        return file.read()


def write(path: Path, content: str, mode: int = 0o644) -> None:
    """Replace a file atomically, and create its parent folders. Until it is complete, only its owner can read it."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")  # no program's include matches this name
    temporary.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # it would stay on a full disk
        raise


def difference(path: Path, before: str, after: str) -> dict[str, str]:
    """One entry of a module's `diff`."""
    return {"before_header": str(path), "after_header": str(path), "before": before, "after": after}
