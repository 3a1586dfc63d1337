"""The test machines of the benchmark: made by script/machine, reached over SSH and HTTP."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
BENCHMARKS = PROJECT / "benchmarks"
TIMEOUT = 30  # seconds for one response
ADMIN = "admin"


class BenchError(Exception):
    """A measurement that failed; the message says which, and shows the output."""


@dataclass(frozen=True)
class Command:
    """A program to run on the control node.

    Args:
        argv: the program and its arguments.
        folder: the folder to run it in.
        environment: variables in addition to those of the suite.
        stdin: what the program reads.
    """

    argv: tuple[str, ...]
    folder: Path = PROJECT
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: str = ""


@dataclass(frozen=True)
class Done:
    """What a program printed, and how many seconds it took."""

    output: str
    seconds: float
    errors: str = ""  # what it printed to standard error


@dataclass(frozen=True)
class Machine:
    """A test machine that runs, as script/machine describes it."""

    name: str
    address: str
    gateway: str
    private_key: str
    known_hosts: str

    def ssh(self, command: str, user: str = ADMIN, stdin: str = "") -> Command:
        """A command on the machine; with a password-free sudo, that user can do everything."""
        options = ("-i", self.private_key, "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "BatchMode=yes")
        return Command(("ssh", *options, f"{user}@{self.address}", command), stdin=stdin)


def own_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of a program: those of the caller without Ansible's settings and its venv, and its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "VIRTUAL_ENV"))}
    path = f"{PROJECT / '.venv/bin'}:{kept.get('PATH', os.defpath)}"
    return kept | {"ANSIBLE_NOCOLOR": "1", "PATH": path} | dict(environment)


def say(message: str) -> None:
    """Print progress to standard error; standard output is for the table."""
    print(message, file=sys.stderr, flush=True)


class Lab:
    """Runs everything that a measurement needs, and removes its machines at the end, also after a failure.

    Use it as a context manager.

    Args:
        folder: a folder for the files of the machines, which exists.
        dry: print what would be run, and run nothing.
        keep: leave the machines running.
    """

    def __init__(self, folder: Path, dry: bool = False, keep: bool = False) -> None:
        self.folder = folder
        self.dry = dry
        self.keep = keep
        self.machines: list[str] = []
        self.connections = 0

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        if self.keep:
            names = " ".join(self.machines)
            say(f"Their files are in {self.folder}. To remove the machines: script/machine down {names}")
        else:
            self.down(list(self.machines))

    def up(self, name: str, packages: Iterable[str] = ()) -> Machine:
        """Boot a fresh machine with Debian 13; one of that name is removed first.

        Args:
            name: its name.
            packages: Debian packages that its image already contains.
        """
        argv = ["script/machine", "up", name, "--debian", "13"]
        if packages:
            argv.append(f"--packages={','.join(sorted(packages))}")
        if name not in self.machines:
            self.machines.append(name)  # before it runs, as it may fail half-way
        said = self.run(Command(tuple(argv))).output
        if self.dry:
            return Machine(name, "192.0.2.10", "192.0.2.1", ".machines/id_ed25519", ".machines/known_hosts")
        record = json.loads(said.splitlines()[-1])
        return Machine(*(record[key] for key in ("name", "address", "gateway", "private_key", "known_hosts")))

    def down(self, names: list[str]) -> None:
        """Remove machines."""
        if names:
            self.run(Command(("script/machine", "down", *names)), check=False)
            self.machines = [name for name in self.machines if name not in names]

    def run(self, command: Command, check: bool = True) -> Done:
        """Run a program to its end.

        Raises:
            BenchError: if it fails; with the end of its output.
        """
        if self.dry:
            own = " ".join(f"{key}={value}" for key, value in command.environment.items() if key != "PACKAGES")
            shown = " ".join(command.argv)
            print(f"({command.folder.relative_to(PROJECT)}) {own} {shown}{' < …' if command.stdin else ''}")
            return Done("", 0.0)
        started = time.monotonic()
        done = subprocess.run(
            command.argv,
            cwd=command.folder,
            env=own_environment(command.environment),
            input=command.stdin,
            capture_output=True,
            text=True,
        )
        seconds = time.monotonic() - started
        if check and done.returncode:
            said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-25:])
            raise BenchError(f"{' '.join(command.argv)} failed with {done.returncode}:\n{said}")
        return Done(done.stdout, seconds, done.stderr)

    def new_connections(self) -> dict[str, str]:
        """Variables with which Ansible opens new SSH connections, like a run some hours after the one before.

        A kept connection would also lead to a machine that no longer exists, as addresses are used again.
        """
        self.connections += 1
        return {"ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder / f"c{self.connections}")}


def get(address: str, path: str, port: int = 80, host: str = "", **headers: str) -> tuple[int, str, Mapping[str, str]]:
    """Send a GET request; return status, body and headers in lower case. Status 0 means that there was no response."""
    connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT)
    try:
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request("GET", path, headers={"Host": host or address} | sent)
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
        return response.status, body, {key.lower(): value for key, value in response.getheaders()}
    except (OSError, http.client.HTTPException):
        return 0, "", {}
    finally:
        connection.close()
