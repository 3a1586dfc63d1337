"""A control group for each machine, on a computer without systemd.

systemd-nspawn runs a machine below the control group of its own process. Machines that share one would share the groups
of units of the same name too: a unit would stop only when those of all other machines have stopped.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def hierarchy() -> Path:
    """The hierarchy of version 2, also beside those of version 1."""
    return ROOT / "unified" if (ROOT / "unified").exists() else ROOT


def entering(identity: str) -> list[str]:
    """The start of a command line, whose rest runs in the group of a machine."""
    group = hierarchy() / identity
    group.mkdir(exist_ok=True)
    return ["sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "sh"]


def remove(identity: str) -> None:
    """Remove the groups of a machine whose processes have ended."""
    for root in (hierarchy(), ROOT / "systemd"):  # systemd-nspawn copies the group into systemd's own hierarchy
        for folder, _, _ in os.walk(root / identity, topdown=False):
            with contextlib.suppress(OSError):  # one that is still in use is not worth an error
                os.rmdir(folder)
