"""Shared by the modules of script/machine: paths, errors, programs, the records of the machines."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
KEYS = CHECKOUT / ".machines"  # the key pair and known_hosts of this checkout's machines
STATE = Path("/var/lib/blueoctopus-machines")
BRIDGE = "blueoctopus0"
MTU = 1400  # tunnels and clouds reduce 1500 to about this
SUITES = {"12": "bookworm", "13": "trixie"}


class MachineError(Exception):
    """An error that the user can fix; the message explains how."""


def run(*argv: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program and capture its output; raise a MachineError with that output if it fails."""
    result = subprocess.run([str(a) for a in argv], capture_output=True, text=True)
    if check and result.returncode:
        raise MachineError(f"{' '.join(map(str, argv))} failed:\n{result.stderr or result.stdout}")
    return result


def say(message: str) -> None:
    """Print progress to standard error; standard output is for JSON."""
    print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock of that name, so that two checkouts or runs do not interfere."""
    STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (STATE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def identity(name: str) -> str:
    """A machine's name, unique among all checkouts on this computer."""
    return f"{name}-{hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:6]}"


def records() -> list[dict[str, str]]:
    """The records of all machines on this computer."""
    found = []
    for path in sorted((STATE / "machines").glob("*/record.json")):
        with contextlib.suppress(OSError, ValueError):
            found.append(json.loads(path.read_text()))
    return found


def mine() -> list[dict[str, str]]:
    """The machines of this checkout."""
    return [record for record in records() if record["checkout"] == str(CHECKOUT)]


def key_pair() -> Path:
    """The private key for this checkout's machines, created on first use and owned by the calling user."""
    key = KEYS / "id_ed25519"
    if not key.exists():
        KEYS.mkdir(mode=0o700, exist_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "blueoctopus-machines", "-f", key)
        give_back(KEYS, key, key.with_suffix(".pub"))
    return key


def give_back(*paths: Path) -> None:
    """Change the owner of files that root created to the user who called sudo."""
    if "SUDO_UID" in os.environ:
        for path in paths:
            os.chown(path, int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))


def remember(address: str, host_key: str | None) -> None:
    """Record the host key of an address, so that SSH can verify the first connection; None removes it."""
    path = KEYS / "known_hosts"
    lines = path.read_text().splitlines() if path.exists() else []
    lines = [line for line in lines if line.split()[0] != address]
    if host_key:
        lines.append(f"{address} {' '.join(host_key.split()[:2])}")
    KEYS.mkdir(mode=0o700, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    give_back(KEYS, path)
