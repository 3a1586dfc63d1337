"""The command app in a real terminal, and with pipes; systemd-run is replaced."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parent.parent / "roles/app/files/app"
PATIENCE = 60
# Starts a command as systemd does, in a session with its own terminal and without ignored signals, and ends as soon as
# the command has ended.
SYSTEMD_RUN = """#!{python}
import os, signal, subprocess, sys
end = sys.argv.index("--")
properties = dict(option.split("=", 2)[1:] for option in sys.argv[1:end] if option.startswith("--property="))
def take_terminal():
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for number in range(3):
        os.dup2(os.open(properties["TTYPath"], os.O_RDWR), number)
command = [word.replace("$$", "$") for word in sys.argv[end + 1:]]
with subprocess.Popen(command, preexec_fn=take_terminal if "TTYPath" in properties else None) as process:
    sys.exit(process.wait())
"""
APP = """
import importlib.machinery, os, pathlib, sys, types
loader = importlib.machinery.SourceFileLoader("app_command", {program!r})
app = types.ModuleType("app_command")
loader.exec_module(app)
app.APPS, app.os.geteuid = pathlib.Path({apps!r}), lambda: 0
sys.exit(app.main())
"""


class Terminal:
    """A terminal in which a program runs."""

    def __init__(self, argv: list[str]) -> None:
        self.pid, self.end = pty.fork()
        if not self.pid:
            os.execv(argv[0], argv)
        self.modes = termios.tcgetattr(self.end)
        self.shown = b""

    def resize(self, lines: int, columns: int) -> None:
        """Change the size of the terminal."""
        fcntl.ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text: str) -> None:
        """Type a text."""
        typed = text.encode()
        while typed:
            typed = typed[os.write(self.end, typed) :]

    def read_until(self, expected: str) -> str:
        """Read until the terminal shows a text."""
        while expected.encode() not in self.shown:
            assert select.select([self.end], [], [], PATIENCE)[0], self.shown
            self.shown += os.read(self.end, 4096)
        return self.shown.decode()

    def finish(self) -> tuple[str, int]:
        """What the terminal has shown, and the exit status of the program."""
        while True:
            assert select.select([self.end], [], [], PATIENCE)[0], self.shown
            try:
                self.shown += os.read(self.end, 4096)
            except OSError:  # nothing is left, and the program has ended
                break
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        return self.shown.decode().replace("\r\n", "\n"), status


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command app with an app that is live."""
    release = tmp_path / "srv/shop/releases/20260102T030405Z-1f0c2d3e4b"
    (release / "units").mkdir(parents=True)
    (release / "units/shop@.service").write_text("[Service]\nType=notify\nUser=shop\n[Install]\n")
    (release / "release.json").write_text(json.dumps({"secrets": []}))
    (release / "environment").write_text("")
    (tmp_path / "srv/shop/live").symlink_to(release)
    programs = {"systemd-run": SYSTEMD_RUN.format(python=sys.executable)}
    programs["systemctl"] = f'#!/bin/sh\necho "$@" >> {tmp_path}/systemctl.log\n'
    for name, text in programs.items():
        (tmp_path / "programs").mkdir(exist_ok=True)
        (tmp_path / "programs" / name).write_text(text)
        (tmp_path / "programs" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/programs:{os.environ['PATH']}")
    return [sys.executable, "-c", APP.format(program=str(PROGRAM), apps=str(tmp_path / "srv")), "shop"]


@pytest.fixture
def stopped(tmp_path: Path) -> Callable[[], str]:
    """What systemctl was asked to do, with the random part of the unit's name left out."""
    return lambda: re.sub(r"run-\w+", "run-ID", (tmp_path / "systemctl.log").read_text())


@pytest.fixture
def terminal(app: list[str]) -> Iterator[Callable[..., Terminal]]:
    """Starts the command app in a terminal."""
    terminals: list[Terminal] = []

    def start(*command: str) -> Terminal:
        terminals.append(Terminal([*app, *command]))
        return terminals[-1]

    yield start
    for started in terminals:
        os.close(started.end)
        if started.pid:
            os.kill(started.pid, signal.SIGKILL)
            os.waitpid(started.pid, 0)


def test_output_that_nobody_has_read_when_the_command_ends_is_not_lost(terminal: Callable[..., Terminal]) -> None:
    started = terminal("seq", "5000")  # as much as both terminals hold, and more than one read returns
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
    deadline = time.monotonic() + PATIENCE
    while [Path(f"/proc/{pid}/stat").read_text().split()[2] for pid in children.read_text().split()] != ["Z"]:
        assert time.monotonic() < deadline, "the command has not ended"
        time.sleep(0.05)
    shown, status = started.finish()
    assert shown.splitlines() == [str(number) for number in range(1, 5001)]
    assert status == 0


@pytest.mark.parametrize("lines", [1, 20000])
def test_no_output_is_lost_when_the_command_ends(terminal: Callable[..., Terminal], lines: int) -> None:
    started = terminal("sh", "-c", f"test -t 1; echo $?; seq {lines}; exit 5")
    time.sleep(0.5)  # nobody reads, as on an overloaded machine
    shown, status = started.finish()
    assert shown.splitlines() == ["0", *map(str, range(1, lines + 1))]
    assert status == 5


def test_the_command_has_the_size_of_the_terminal_also_when_it_changes(terminal: Callable[..., Terminal]) -> None:
    started = terminal("sh", "-c", "trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done")
    started.read_until("ready")
    started.resize(33, 111)
    started.read_until("33 111")
    started.resize(44, 122)
    started.read_until("44 122")


# Standard input is an object whose method fileno, which select calls, sends the signal: nothing in Python runs between
# that and the beginning of the wait.
SIGNAL_BEFORE_WAIT = """
import ctypes, functools, importlib.machinery, os, select, signal, types
loader = importlib.machinery.SourceFileLoader("app_command", {program!r})
app = types.ModuleType("app_command")
loader.exec_module(app)
end, handled = os.pipe()
signal.signal(signal.SIGWINCH, lambda *_: os.write(handled, b"x"))
terminal, its_end = os.openpty()
os.set_blocking(terminal, False)
class Input:
    fileno = functools.partial(getattr(ctypes.CDLL(None), "raise"), signal.SIGWINCH)
def wait(ready, *rest):
    return select.select([Input() if file == 0 else file for file in ready], *rest)
app.select = types.SimpleNamespace(select=wait)
app.copy_until(end, terminal)
"""


def test_a_signal_just_before_the_wait_is_handled_at_once() -> None:
    command = [sys.executable, "-c", SIGNAL_BEFORE_WAIT.format(program=str(PROGRAM))]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


def test_control_c_reaches_the_command_alone(terminal: Callable[..., Terminal]) -> None:
    started = terminal("sh", "-c", "trap 'echo stopped; exit 7' INT; echo ready; while :; do sleep 0.1; done")
    started.read_until("ready")
    started.type("\x03")
    shown, status = started.finish()
    assert shown.endswith("stopped\n")
    assert status == 7


def test_a_shell_shows_its_prompt_and_what_is_typed_and_the_terminal_is_as_before(
    terminal: Callable[..., Terminal],
) -> None:
    started = terminal("sh", "-i")
    started.type("echo eight-$((7 + 1)); tty; exit 3\n")
    shown, status = started.finish()
    assert "eight-8\n/dev/pts/" in shown
    assert status == 3
    assert termios.tcgetattr(started.end) == started.modes


def test_a_long_text_is_typed_while_the_command_writes(terminal: Callable[..., Terminal]) -> None:
    script = "stty raw -echo; echo ready; seq 40000; head -c 300000 | wc -c"
    started = terminal("sh", "-c", script)
    started.read_until("ready")
    if os.fork() == 0:
        started.type("x" * 300000)
        os._exit(0)
    shown, status = started.finish()
    os.wait()
    assert (shown.split()[-2:], status) == (["40000", "300000"], 0)


def test_a_terminal_that_is_closed_stops_the_command(
    terminal: Callable[..., Terminal], stopped: Callable[[], str]
) -> None:
    started = terminal("sh", "-c", "trap '' HUP; echo ready; sleep 5")
    started.read_until("ready")
    os.kill(started.pid, signal.SIGHUP)
    assert started.finish()[1] == 128 + signal.SIGHUP
    assert stopped() == "stop --no-block shop.run-ID.service\n"
    assert termios.tcgetattr(started.end) == started.modes


def test_with_a_pipe_the_command_has_no_terminal_and_writes_to_the_pipe_itself(app: list[str]) -> None:
    script = "read line; tty; echo $line; echo error >&2; seq 100000; exit 4"
    done = subprocess.run([*app, "sh", "-c", script], input="8 arms\n", capture_output=True, text=True)
    assert done.stdout.splitlines() == ["not a tty", "8 arms", *map(str, range(1, 100001))]
    assert (done.stderr, done.returncode) == ("error\n", 4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_is_stopped(app: list[str], stopped: Callable[[], str], number: int) -> None:
    # The tests themselves ignore SIGINT in the background of a shell that is not interactive.
    command = ["env", "--default-signal", *app, "sh", "-c", "echo ready; exec sleep 3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(PATIENCE) == 128 + number
    assert stopped() == "stop --no-block shop.run-ID.service\n"
