"""The lock of an app on a host, when many runs take it at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import (
    STALE_AFTER,
    Lock,
)
from locks import grow_old

OWNER = {"by": "me@here", "since": "2026-01-01 00:00:00 UTC"}
ROUNDS = 10  # number of times that all contenders take the lock at once
CONTENDERS = 6


def threads(contend: Callable[[int], bool]) -> list[bool]:
    """Run all contenders in threads of this process; return which ones succeeded."""
    won = [False] * CONTENDERS
    start = threading.Barrier(CONTENDERS)

    def run(number: int) -> None:
        start.wait()
        won[number] = contend(number)

    running = [threading.Thread(target=run, args=(number,)) for number in range(CONTENDERS)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return won


def processes(contend: Callable[[int], bool]) -> list[bool]:
    """Run all contenders in separate processes; return which ones succeeded."""
    gate, opener = os.pipe()
    children = []
    for number in range(CONTENDERS):
        child = os.fork()
        if child == 0:
            status = 2
            try:
                os.close(opener)
                os.read(gate, 1)  # until the other end is closed
                status = 0 if contend(number) else 1
            finally:
                os._exit(status)
        children.append(child)
    os.close(gate)
    os.close(opener)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert set(statuses) <= {0, 1}
    return [status == 0 for status in statuses]


@pytest.mark.parametrize("stale", [False, True], ids=["free", "stale"])
@pytest.mark.parametrize("contest", [threads, processes])
def test_when_many_take_the_lock_at_once_exactly_one_succeeds(
    tmp_path: Path, contest: Callable[[Callable[[int], bool]], list[bool]], stale: bool
) -> None:
    for number in range(ROUNDS):
        lock = Lock(f"shop{number}", tmp_path / "releases")
        if stale:
            lock.take("gone", OWNER)
            grow_old(lock, STALE_AFTER + 1)
        won = contest(lambda n, lock=lock: lock.take(f"token{n}", {"by": f"run {n}", "since": ""}))  # type: ignore[misc]
        assert won.count(True) == 1
        winner = won.index(True)
        assert lock.token == f"token{winner}"
        assert lock.owner == {"by": f"run {winner}", "since": ""}
