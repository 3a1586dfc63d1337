"""What the graders share: programs to run, machines to reach, and a table to print."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parent.parent
TOOLS = PROJECT / ".grade/venv/bin"
Result = tuple[str, bool]  # what a grader says in a few words, and whether that is good enough


def run(*argv: str | Path, environment: dict[str, str] | None = None, stdin: str = "") -> str:
    """Run a grader and return what it found; what it says of itself is left out."""
    command = [str(a) for a in argv]
    settings = os.environ | (environment or {})
    return subprocess.run(command, capture_output=True, text=True, env=settings, input=stdin).stdout


class Host:
    """A machine of a scenario.

    Args:
        scenario: the scenario's name.
        name: the machine's name in its inventory.
    """

    def __init__(self, scenario: str, name: str) -> None:
        self.name = name
        folder = PROJECT / f"molecule/{scenario}/inventory/host_vars/{name}"
        self.reach: dict[str, Any] = {}
        for file in sorted(folder.glob("*.yml")):
            self.reach |= yaml.safe_load(file.read_text())

    @property
    def address(self) -> str:
        return str(self.reach["ansible_host"])

    @cached_property
    def port(self) -> int:
        """Where sshd listens: the port of the inventory, or that of a fresh machine."""
        wanted = int(self.reach.get("ssh_port", 22))
        with contextlib.suppress(OSError), socket.create_connection((self.address, wanted), timeout=5):
            return wanted
        return 22

    def run(self, command: str, stdin: str = "") -> str:
        """Run a command as the user of the inventory and return what it printed."""
        ssh = ["ssh", "-i", self.reach["ansible_ssh_private_key_file"], *self.reach["ansible_ssh_common_args"].split()]
        return run(*ssh, "-p", str(self.port), f"{self.reach['ansible_user']}@{self.address}", command, stdin=stdin)

    def run_as_root(self, script: str) -> str:
        """Run a shell script as root and return what it printed."""
        return self.run("sudo sh -s", stdin=script)


def tell(grader: str, where: str, what: str) -> None:
    """Say more than fits into the table."""
    print(f"  {grader}, {where}: {what}", file=sys.stderr)


def table(columns: Iterable[str], rows: Mapping[str, Callable[[str], Result]]) -> bool:
    """Print a table with a row for each grader; say whether all marks were reached."""
    names, passed = list(columns), True
    print(f"\n| grader | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}")
    for title, grader in rows.items():
        results = [grader(name) for name in names]
        cells = [words if good else f"{words} (below the mark)" for words, good in results]
        print(f"| {title} | {' | '.join(cells)} |", flush=True)
        passed = passed and all(good for _words, good in results)
    return passed
