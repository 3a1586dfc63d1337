"""Describes the computer and the versions that were measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
from pathlib import Path

from benchmarks.hosts import PROJECT, Command, Lab
from benchmarks.ways import PYINFRA


def processor() -> str:
    """The model of the processor."""
    match = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1] if match else platform.machine()


def memory() -> str:
    """The size of the memory."""
    match = re.search(r"^MemTotal: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return f"{int(match[1]) / 2**20:.0f} GiB" if match else "unknown"


def locked(path: str, package: str) -> str:
    """The version of a package in a lock file."""
    match = re.search(rf"^{package}==([^ ;\\]+)", (PROJECT / path).read_text(), re.MULTILINE)
    return match[1] if match else "unknown"


def describe() -> dict[str, str]:
    """The properties of this computer and of what was measured."""
    lab = Lab(PROJECT)
    commit = lab.run(Command(("git", "rev-parse", "--short", "HEAD")), check=False).output.strip()
    changed = lab.run(Command(("git", "status", "--porcelain", "--untracked-files=no")), check=False).output
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "commit": f"{commit or 'unknown'}{' with changes' if changed else ''}",
        "processor": f"{len(os.sched_getaffinity(0))} cores, {processor()}",
        "memory": memory(),
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "ansible-core": importlib.metadata.version("ansible-core"),
        "pyinfra": locked("benchmarks/requirements.txt", "pyinfra") if PYINFRA.exists() else "not installed",
        "gunicorn": locked("app/requirements.txt", "gunicorn"),
        "Flask": locked("app/requirements.txt", "flask"),
        "hosts": "Debian 13 in systemd-nspawn, on the same cores as the control node and the load generator",
    }
