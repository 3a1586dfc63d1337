"""Quote values for systemd's unit files."""

from __future__ import annotations

import shlex
from typing import Any


def systemd_command(command: str) -> str:
    """Write a command line for ExecStart=. It is split into words like in a shell, but nothing is expanded.

    The program is looked up in the unit's own PATH, where the release's venv comes first.
    """
    words = []
    for word in shlex.split(command):
        escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
        words.append(f'"{escaped}"')
    return " ".join(["/usr/bin/env", *words])


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"systemd_command": systemd_command}
