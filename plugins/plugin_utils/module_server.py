"""Run modules one after another in one process on a host, see the connection plugin persistent_ssh.

The plugin starts this file with ``python3 -c``. Without it, each module starts Python, imports the standard library and
compiles the files of Ansible that it brings along.

A request is the number of its bytes, a newline, and a program. The answer is a line with four numbers, then standard
output and standard error: the exit code, the numbers of bytes of both, and 1 if the server ends after this answer. Each
program runs in a child process, as if it were the input of a new Python.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import marshal
import os
import select
import sys
import time
import zipimport
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

# Of the files that a module has left open, those that may still have to write something.
FILES = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)
IDLE = 60  # seconds without a request, after which the process ends
READY = b"module server ready\n"
# The part of Ansible that runs each module. It takes longer to import than most modules to run.
RUN_MODULE = "ansible.module_utils._internal._ansiballz._loader"


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
    """Python keeps no bytecode of files in ZIP files, so this keeps it from one module to the next.

    Each module comes in a ZIP file of its own. In tracebacks and for Ansible, all files are those of the first one.
    """

    def __init__(self) -> None:
        self.zip = ""
        # By the path in the ZIP file and the source, for several files are empty.
        self.known: dict[tuple[str, bytes], CodeType] = {}
        self.new: dict[tuple[str, bytes], CodeType] = {}
        # Without effect in a Python whose module has no function of this name.
        self.compile: Callable[..., CodeType] = vars(zipimport).get("_compile_source", compile)
        vars(zipimport)["_compile_source"] = self

    def __call__(self, path: str, source: bytes, *rest: object) -> CodeType:
        """Compile a file, as zipimport does; the path is for tracebacks. Python 3.15 adds the name of the module."""
        own, end, name = path.partition(".zip/")
        if (name, source) not in self.known:
            self.zip = self.zip or own + end
            self.known[name, source] = self.new[name, source] = self.compile(self.zip + name, source, *rest)
        return self.known[name, source]


class PackagePath:
    """Where Python finds what is not imported yet of a package: in the ZIP file of the module that runs."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __iter__(self) -> Iterator[str]:
        return (f"{path}/{self.folder}" for path in sys.path if path.endswith(".zip"))


class Importer:
    """Import files of Ansible that a module has compiled, whose ZIP file no longer exists."""

    def __init__(self, folder: str, codes: dict[tuple[str, bytes], CodeType]) -> None:
        """The code by the path in the ZIP file, which was in the folder, and the source."""
        self.folder = folder
        self.files = {path: (source, code) for (path, source), code in codes.items()}

    def file(self, name: str) -> str:
        """The path of a module in the ZIP file; empty if there is none."""
        base = name.replace(".", "/")
        return next((path for path in (f"{base}/__init__.py", f"{base}.py") if path in self.files), "")

    def find_spec(self, name: str, *_rest: object) -> ModuleSpec | None:
        """Tell Python about a module."""
        if not (file := self.file(name)):
            return None
        spec = ModuleSpec(name, self, origin=self.folder + file)  # type: ignore[arg-type]
        spec.has_location = True
        if file.endswith("/__init__.py"):
            spec.submodule_search_locations = PackagePath(file[: -len("/__init__.py")])  # type: ignore[assignment]
        return spec

    def create_module(self, _spec: ModuleSpec) -> None:
        """Let Python make the module."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill a module."""
        exec(self.files[self.file(module.__name__)][1], vars(module))  # noqa: S102

    def get_source(self, name: str) -> str:
        """The source of a module, for tracebacks."""
        return self.files[self.file(name)][0].decode()


class End:
    """Ends a child process without freeing all its memory first, which takes Python longer than most modules run."""

    def __init__(self) -> None:
        self.process = self.status = 0
        self.tell: Callable[[], None] = lambda: None
        # What is registered first is called last, also after what imported modules have registered.
        atexit.register(self)

    def run(self, program: bytes) -> None:
        """Run a program, and remember the exit code."""
        try:
            exec(compile(program, "<stdin>", "exec", dont_inherit=True), {"__name__": "__main__"})  # noqa: S102
        except SystemExit as error:
            self.status = error.code if isinstance(error.code, int) else int(error.code is not None)
            raise
        except BaseException:
            self.status = 1
            raise

    def __call__(self) -> None:
        """End the process, unless it is the server, or one that the module has forked."""
        if os.getpid() != self.process:
            return
        self.tell()
        if (sys.stdout, sys.stderr) != (sys.__stdout__, sys.__stderr__):
            return  # only Python knows what is left in the former ones
        with suppress(Exception):  # then Python reports it
            for file in [*gc.get_objects(), sys.stdout, sys.stderr]:
                if issubclass(type(file), FILES) and not file.closed:
                    file.flush()
            os._exit(self.status)


def imported() -> set[str]:
    """The modules of the standard library that this process has imported."""
    return {name for name in [*sys.modules] if name.split(".")[0] in sys.stdlib_module_names}


def prepare(learned: int, compiler: Compiler, end: End) -> None:
    """Make a child process look like a new Python, whose end tells the server what it has compiled and imported."""
    before = imported()

    def tell() -> None:
        names = sorted(imported() - before)
        if names or compiler.new:
            with open(learned, "wb") as file:
                marshal.dump((names, compiler.zip, compiler.new), file)

    compiler.new = {}
    end.process, end.tell = os.getpid(), tell
    gc.freeze()  # what the server has is none of the module's
    importlib.invalidate_caches()
    time.tzset()


def learn(news: bytes, compiler: Compiler) -> None:
    """Keep what a child process has compiled, and import what it has imported. It may have been killed meanwhile."""
    with suppress(BaseException):
        names, compiler.zip, codes = marshal.loads(news)  # noqa: S302 — from its own child process
        compiler.known |= codes
        for name in names:
            importlib.import_module(name)
        if RUN_MODULE not in sys.modules:
            importer = Importer(compiler.zip, compiler.known)
            sys.meta_path.insert(0, importer)
            try:
                importlib.import_module(RUN_MODULE)
            finally:
                sys.meta_path.remove(importer)


def is_possible() -> bool:
    """Whether Python and the system have what the server needs."""
    return hasattr(os, "memfd_create") and hasattr(sys, "stdlib_module_names") and os.path.exists("/proc/self/exe")


def is_outdated() -> bool:
    """Whether Python was upgraded since this process has started."""
    return os.readlink("/proc/self/exe").endswith(" (deleted)")


def serve(end: End) -> bytes | None:
    """Answer requests. Return in a child process with its program, and in the server with None when it ends."""
    compiler = Compiler()
    send(b"\n" + READY)  # what comes before may lack the end of its line
    while (program := receive_request()) is not None:
        output, errors, learned = (os.memfd_create(name) for name in ("output", "errors", "learned"))
        if not (child := os.fork()):
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(errors, 2)
            prepare(learned, compiler, end)
            return program
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answer = [content(output), content(errors)]
        ends = is_outdated()
        send(b"%d %d %d %d\n" % (code if code >= 0 else 128 - code, *map(len, answer), ends) + b"".join(answer))
        if ends:
            return None
        learn(content(learned), compiler)
    return None


def main() -> None:
    """Serve, and in each child process, run its program."""
    end = End()
    if (program := serve(end)) is not None:
        end.run(program)


if __name__ == "__main__" and is_possible():
    main()
