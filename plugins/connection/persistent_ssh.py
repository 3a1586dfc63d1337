"""Connect by SSH, and keep one Python on the host for all modules of a run."""

from __future__ import annotations

DOCUMENTATION = """
name: persistent_ssh
short_description: SSH with one Python on the host for all modules of a run
author: Blue Octopus (@blueoctopus)
description:
  - Works like P(ansible.builtin.ssh#connection) and has its options, but modules run in child processes of one Python
    on the host, so that a module does not log in, start C(sudo) and Python, and compile Ansible's files again.
  - The Python on the host is that of the account that the task uses. It is reached through the SSH connection only, and
    it ends after a minute without a module.
  - Where this is not possible, a module runs as with P(ansible.builtin.ssh#connection). Examples are a task with
    C(environment), two tasks on a host at the same time, a password for SSH or C(sudo), and a host without Python 3.10.
  - The account's groups, limits and environment are those of the first task. C(meta=reset_connection) starts a new
    Python.
  - Files of Ansible's own C(module_utils) are those of the first module. A role can't replace one of them.
  - A module that does not close a compressed file loses its end, and one that does not close a named temporary file
    leaves it on the host.
  - To do without it, set C(ANSIBLE_TRANSPORT=ssh).
extends_documentation_fragment:
  - blueoctopus.site.ssh_options
  - ansible.builtin.connection_pipelining
"""

import copy
import fcntl
import hashlib
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

from ansible import constants as C
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ssh
from ansible_collections.blueoctopus.site.plugins.plugin_utils import module_server

SERVER = Path(module_server.__file__).read_bytes()
# The server is not in the command itself, because sudo logs commands. It imports nothing from the folder that it is in.
START = f"""import os, sys
sys.path = [folder for folder in sys.path if folder]
program = b""
while len(program) < {len(SERVER)} and (part := os.read(0, {len(SERVER)} - len(program))):
    program += part
exec(program)"""
PAUSE = 60  # seconds after a server that did not start, in which no other one is started
ENDINGS = ("", " && sleep 0")  # what Ansible appends to a command; the second one is that of ansible-core 2.19
SUCCESS_KEY = re.compile("BECOME-SUCCESS-[a-z]+")


class NoServerError(Exception):
    """No server can run the module; the module did not begin."""


class Server:
    """A module server on a host. Tasks are processes of their own, so they reach it through two FIFOs in a folder."""

    def __init__(self, folder: Path) -> None:
        """Use the server of a folder, which is made if it does not exist."""
        self.folder = folder
        self.input, self.output, self.state, self.failed = (
            folder / name for name in ("input", "output", "state", "failed")
        )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Have the server alone. Raises NoServerError if another task of the host runs, or without locks."""
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            file = (self.folder / "lock").open("w")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise NoServerError("another task uses it") from error
        with file:
            yield

    def forget(self) -> None:
        """Let the next task start a new server. The former one ends by itself, as it gets no more requests."""
        for file in (self.input, self.output, self.state, self.failed):
            file.unlink(missing_ok=True)

    def start(self, command: list[str | bytes]) -> None:
        """Start a server. Raises NoServerError if it does not start, or has not a minute ago."""
        with suppress(FileNotFoundError):
            if time.time() - self.failed.stat().st_mtime < PAUSE:
                raise NoServerError("it did not start")
        self.forget()
        os.mkfifo(self.input, 0o600)
        os.mkfifo(self.output, 0o600)
        # Opened for reading and writing, its input does not end with a task.
        with (
            os.fdopen(os.open(self.input, os.O_RDWR), "r+b", buffering=0) as source,
            open(os.open(self.output, os.O_RDONLY | os.O_NONBLOCK), "rb") as lines,
        ):
            with self.output.open("wb") as target:
                streams: dict[str, Any] = {"stdin": source, "stdout": target, "stderr": subprocess.DEVNULL}
                subprocess.Popen(command, **streams, start_new_session=True)
            source.write(SERVER)
            os.set_blocking(lines.fileno(), True)
            if module_server.READY not in iter(lines.readline, b""):  # the become plugin writes a line too
                self.failed.touch()
                raise NoServerError("it did not start")

    def connect(self) -> tuple[BinaryIO, BinaryIO]:
        """Open the input and the output of the server. Raises OSError if it has ended."""
        source = os.open(self.input, os.O_WRONLY | os.O_NONBLOCK)  # an error if no process reads
        output = os.open(self.output, os.O_RDONLY | os.O_NONBLOCK)
        for descriptor in (source, output):
            os.set_blocking(descriptor, True)
        return open(source, "wb", buffering=0), open(output, "rb")

    def is_idle(self) -> bool:
        """Whether the server waits for a module, and not so long that it may end at this moment."""
        with suppress(OSError, ValueError):  # the file is empty while a module runs, so also if its task was killed
            return time.monotonic() - float(self.state.read_text()) < module_server.IDLE / 2
        return False

    def run(self, program: bytes, command: list[str | bytes]) -> tuple[int, bytes, bytes]:
        """Run a program; return its exit code, output and errors.

        Raises:
            NoServerError: The program did not begin.
            AnsibleConnectionFailure: The connection was lost while it ran.
        """
        with self.lock():
            try:
                streams = self.connect() if self.is_idle() else None
            except OSError:
                streams = None
            try:
                if not streams:
                    self.start(command)
                source, output = streams or self.connect()
                self.state.write_text("")
                with source:
                    rest = memoryview(b"%d\n" % len(program) + program)
                    while rest:
                        rest = rest[source.write(rest) :]
            except OSError as error:
                raise NoServerError("it has ended") from error
            with output:
                code, texts, ends = answer(output)
            with suppress(OSError):  # such as a full disk: the next task starts another server
                if not ends:
                    self.state.write_text(str(time.monotonic()))
            return code, texts[0], texts[1]


def answer(output: BinaryIO) -> tuple[int, list[bytes], int]:
    """Read an answer: the exit code, output and errors, and 1 if the server ends.

    Raises:
        AnsibleConnectionFailure: The connection was lost.
    """
    with suppress(OSError, ValueError):
        code, *sizes, ends = (int(number) for number in output.readline().split())
        texts = [output.read(size) for size in sizes]
        if [len(text) for text in texts] == sizes:
            return code, texts, ends
    raise AnsibleConnectionFailure(
        "The connection was lost while a module ran. It may have finished or not: run the playbook again."
    )


class Connection(ssh.Connection):
    """An SSH connection whose modules share a Python on the host."""

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Run a command; a module in the Python that the modules share, if there can be one."""
        if in_data and (command := self.server_command(cmd)):
            with suppress(NoServerError):
                self.host = self.get_option("host") or self._play_context.remote_addr
                ssh_command = self._build_command(self.get_option("ssh_executable"), "ssh", self.host, command)
                return self.server(ssh_command).run(in_data, ssh_command)
        return super().exec_command(cmd, in_data=in_data, sudoable=sudoable)

    def server(self, command: list[Any]) -> Server:
        """The server of a command, in the folder of this run of Ansible, which Ansible removes."""
        words = [word if isinstance(word, bytes) else word.encode() for word in command]
        return Server(Path(C.DEFAULT_LOCAL_TMP) / hashlib.sha256(b"\0".join(words)).hexdigest()[:16])

    def server_command(self, command: str) -> str:
        """The command that starts a module server the way a command starts Python; empty if it does anything else."""
        if self.has_password() or not (python := re.search(r"/[\w./-]*python3[\w.]*", command)):
            return ""
        for become, ending in product((self.become, None), ENDINGS):
            if same(command, self.shell_command(python[0], become, ending)):
                command = self.shell_command(f"{python[0]} -c {shlex.quote(START)}", become, ending)
                return SUCCESS_KEY.sub("BECOME-SUCCESS", command)
        return ""

    def has_password(self) -> bool:
        """Whether there is a password for SSH, or for the become plugin."""
        become = self.become if self.become and self.become.has_option("become_pass") else None
        return bool(self.get_option("password") or (become and become.get_option("become_pass")))

    def shell_command(self, command: str, become: Any, ending: str) -> str:
        """A command as Ansible passes it to exec_command, with a become plugin or without, and with one of ENDINGS."""
        if become:
            # A copy, as Ansible still needs the key of the command that it has made.
            command = copy.copy(become).build_become_command(command, self._shell)
        return f"{self._play_context.executable} -c {shlex.quote(command + ending)}"

    def reset(self) -> None:
        """Close the connection, and let the next module start a new Python."""
        for folder in Path(C.DEFAULT_LOCAL_TMP).glob("*/state"):
            Server(folder.parent).forget()
        super().reset()


def same(first: str, second: str) -> bool:
    """Whether two commands are the same but for the key by which the become plugin knows that it has succeeded."""
    return SUCCESS_KEY.sub("", first) == SUCCESS_KEY.sub("", second)
