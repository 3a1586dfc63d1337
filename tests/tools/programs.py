"""Programs of Debian's packages that tests run. A test names them with the mark `needs`: see conftest.py."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

SERVERS = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
PATH = os.pathsep.join([*SERVERS, os.environ["PATH"], "/usr/sbin", "/sbin"])


def find(program: str) -> str:
    """The path of a program; its name if it is not installed."""
    return shutil.which(program, path=PATH) or program


def missing(programs: Iterable[str]) -> list[str]:
    """Those of the programs that are not installed."""
    return [program for program in programs if not shutil.which(program, path=PATH)]
