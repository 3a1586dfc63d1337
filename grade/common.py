"""Shared code of the graders: run programs, log in to test machines, print a table."""

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
Result = tuple[str, bool]  # a short result, and whether it reaches the threshold


def run(*argv: str | Path, environment: dict[str, str] | None = None, stdin: str = "") -> str:
    """Run a tool and return its standard output, without its messages on standard error."""
    command = [str(a) for a in argv]
    settings = os.environ | (environment or {})
    return subprocess.run(command, capture_output=True, text=True, env=settings, input=stdin).stdout


class Host:
    """A test machine of a scenario.

    Args:
        scenario: the scenario's name.
        name: the host's name in the inventory of the scenario.
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
        """The port of sshd: the port in the inventory, or 22 on a fresh test machine."""
        wanted = int(self.reach.get("ssh_port", 22))
        with contextlib.suppress(OSError), socket.create_connection((self.address, wanted), timeout=5):
            return wanted
        return 22

    def run(self, command: str, stdin: str = "") -> str:
        """Run a command as the user of the inventory and return its output."""
        ssh = ["ssh", "-i", self.reach["ansible_ssh_private_key_file"], *self.reach["ansible_ssh_common_args"].split()]
        return run(*ssh, "-p", str(self.port), f"{self.reach['ansible_user']}@{self.address}", command, stdin=stdin)

    def run_as_root(self, script: str) -> str:
        """Run a shell script as root and return its output."""
        return self.run("sudo sh -s", stdin=script)


def tell(grader: str, where: str, what: str) -> None:
    """Print details that do not fit into the table."""
    print(f"  {grader}, {where}: {what}", file=sys.stderr)


def table(columns: Iterable[str], rows: Mapping[str, Callable[[str], Result]]) -> bool:
    """Print a table with a row for each grader; return whether all results reach their thresholds."""
    names, passed = list(columns), True
    print(f"\n| tool | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}")
    for title, grader in rows.items():
        results = [grader(name) for name in names]
        cells = [words if good else f"{words} (below the threshold)" for words, good in results]
        print(f"| {title} | {' | '.join(cells)} |", flush=True)
        passed = passed and all(good for _words, good in results)
    return passed
