"""The load generator: wrk, with load.lua, which prints its results as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.hosts import BENCHMARKS, BenchError, Command, Lab

LONGEST = 900  # seconds after which a load generator stops by itself


@dataclass
class Load:
    """Numbers of responses and of errors, and how long they took in seconds."""

    answered: int = 0
    seconds: float = 0
    connect: int = 0
    read: int = 0
    write: int = 0
    status: int = 0
    timeout: int = 0
    slowest: float = 0

    @property
    def failed(self) -> int:
        """The requests without a good response."""
        return self.connect + self.read + self.write + self.status + self.timeout

    @property
    def rate(self) -> float:
        """Good responses a second."""
        return (self.answered - self.status) / self.seconds if self.seconds else 0.0


def parsed(output: str) -> Load:
    """The results in the output of wrk with load.lua, whose last line is JSON.

    Raises:
        BenchError: if there is no such line.
    """
    lines = output.strip().splitlines()
    try:
        found: dict[str, Any] = json.loads(lines[-1])
        return Load(**found)
    except (IndexError, TypeError, ValueError) as error:
        raise BenchError(f"wrk printed no results:\n{output}") from error


def command(url: str, connections: int, seconds: int = LONGEST, pause: int = 0, host: str = "") -> Command:
    """How to call wrk.

    Args:
        url: what to request.
        connections: number of clients, each with one connection.
        seconds: how long.
        pause: milliseconds that each client waits before a request; GET and POST then alternate.
        host: the header Host, if it differs from that of the URL.
    """
    argv = ["wrk", "--threads=2", f"--connections={connections}", f"--duration={seconds}s", "--timeout=5s"]
    argv += [f"--script={BENCHMARKS / 'load.lua'}", *([f"--header=Host: {host}"] if host else []), url]
    return Command(tuple(argv), environment={"PAUSE": str(pause)})


def measure(lab: Lab, url: str, connections: int, seconds: int) -> Load:
    """Send requests as fast as the server answers.

    Raises:
        BenchError: if a request failed.
    """
    done = lab.run(command(url, connections, seconds))
    if lab.dry:
        return Load()
    load = parsed(done.output)
    if load.failed:
        raise BenchError(f"{load.failed} of {load.answered} requests to {url} failed: {load}")
    return load


@contextlib.contextmanager
def running(called: Command) -> Iterator[Load]:
    """Run wrk as long as the context lasts; it gets the results at its end."""
    load = Load()
    environment = os.environ | dict(called.environment)
    generator = subprocess.Popen(called.argv, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield load
    finally:
        generator.send_signal(signal.SIGINT)
        output, _ = generator.communicate(timeout=30)
    vars(load).update(vars(parsed(output)))


@contextlib.contextmanager
def steady(lab: Lab, url: str, connections: int = 8, pause: int = 40) -> Iterator[Load]:
    """Send some hundred requests a second as long as the context lasts; it gets the results at its end."""
    called = command(url, connections, pause=pause)
    if lab.dry:
        lab.run(called)
        yield Load()
        return
    with running(called) as load:
        yield load
