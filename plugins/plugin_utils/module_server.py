"""Run modules one after another in one process on a host, see the connection plugin persistent_ssh.

The plugin starts this file with ``python3 -c``. Without it, each module starts Python, imports the standard library and
compiles the files of Ansible that it brings along.

A request is the number of its bytes, a newline, and a program. The answer is a line with four numbers, then standard
output and standard error: the exit code, the numbers of bytes of both, and 1 if the server ends after this answer. Each
program runs in a child process, as if it were the input of a new Python.
"""

from __future__ import annotations

import atexit
import importlib
import marshal
import os
import select
import sys
import time
import zipimport
from collections.abc import Callable
from contextlib import suppress
from types import CodeType

IDLE = 60  # seconds without a request, after which the process ends
READY = b"module server ready\n"


def receive(size: int) -> bytes:
    """Read bytes of a request; fewer if the connection has ended or nothing comes for a minute."""
    data = b""
    while len(data) < size and select.select([0], [], [], IDLE)[0]:
        part = os.read(0, size - len(data))
        if not part:
            break
        data += part
    return data


def receive_request() -> bytes | None:
    """Read a request; None when there are no more."""
    line = b""
    while not line.endswith(b"\n"):
        character = receive(1)
        if not character:
            return None
        line += character
    program = receive(int(line))
    return program if len(program) == int(line) else None


def send(data: bytes) -> None:
    """Write all of an answer."""
    while data:
        data = data[os.write(1, data) :]


def content(descriptor: int) -> bytes:
    """Read a file from its beginning, and close it."""
    with open(descriptor, "rb") as file:
        file.seek(0)
        return file.read()


class Compiler:
    """Python keeps no bytecode of files in ZIP files, so this keeps it from one module to the next."""

    def __init__(self) -> None:
        self.known: dict[bytes, CodeType] = {}
        self.new: dict[bytes, CodeType] = {}
        # Without effect in a Python whose module has no function of this name.
        self.compile: Callable[[str, bytes], CodeType] = vars(zipimport).get("_compile_source", compile)
        vars(zipimport)["_compile_source"] = self

    def __call__(self, path: str, source: bytes) -> CodeType:
        """Compile a file, as zipimport does; the path is for tracebacks."""
        if source not in self.known:
            self.known[source] = self.new[source] = self.compile(path, source)
        return self.known[source]


def imported() -> set[str]:
    """The modules of the standard library that this process has imported."""
    return {name for name in [*sys.modules] if name.split(".")[0] in sys.stdlib_module_names}


def prepare(learned: int, compiler: Compiler) -> None:
    """Make a child process look like a new Python, whose end tells the server what it has compiled and imported."""
    before, process = imported(), os.getpid()

    def tell() -> None:
        names = sorted(imported() - before)
        if os.getpid() == process and (names or compiler.new):  # not in a process that the module has forked
            with open(learned, "wb") as file:
                marshal.dump((names, compiler.new), file)

    compiler.new = {}
    atexit.register(tell)
    importlib.invalidate_caches()
    time.tzset()


def learn(news: bytes, compiler: Compiler) -> None:
    """Keep what a child process has compiled, and import what it has imported. It may have been killed meanwhile."""
    with suppress(BaseException):
        names, codes = marshal.loads(news)  # noqa: S302 — from its own child process
        compiler.known |= codes
        for name in names:
            importlib.import_module(name)


def is_possible() -> bool:
    """Whether Python and the system have what the server needs."""
    return hasattr(os, "memfd_create") and hasattr(sys, "stdlib_module_names") and os.path.exists("/proc/self/exe")


def is_outdated() -> bool:
    """Whether Python was upgraded since this process has started."""
    return os.readlink("/proc/self/exe").endswith(" (deleted)")


def serve() -> bytes | None:
    """Answer requests. Return in a child process with its program, and in the server with None when it ends."""
    compiler = Compiler()
    send(b"\n" + READY)  # what comes before may lack the end of its line
    while (program := receive_request()) is not None:
        output, errors, learned = (os.memfd_create(name) for name in ("output", "errors", "learned"))
        if not (child := os.fork()):
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(errors, 2)
            prepare(learned, compiler)
            return program
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answer = [content(output), content(errors)]
        ends = is_outdated()
        send(b"%d %d %d %d\n" % (code if code >= 0 else 128 - code, *map(len, answer), ends) + b"".join(answer))
        if ends:
            return None
        learn(content(learned), compiler)
    return None


if __name__ == "__main__" and is_possible() and (program := serve()) is not None:
    exec(compile(program, "<stdin>", "exec", dont_inherit=True), {"__name__": "__main__"})  # noqa: S102
