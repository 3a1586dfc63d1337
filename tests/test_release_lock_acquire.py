"""How long a run waits for the lock of an app that another run has."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import STALE_AFTER, Lock, LockHeld
from locks import grow_old

OTHER = {"by": "you@there", "since": "2026-01-01 00:01:00 UTC"}


@pytest.fixture
def lock(tmp_path: Path) -> Lock:
    """A free lock."""
    return Lock("shop", tmp_path / "releases")


@pytest.fixture
def pauses(lock: Lock, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses of a run that waits for the lock; each lets the last renewal grow old by 35 seconds."""
    made: list[float] = []

    def sleep(seconds: float) -> None:
        made.append(seconds)
        grow_old(lock, 35)

    monkeypatch.setattr(time, "sleep", sleep)
    return made


def test_a_free_lock_is_acquired_at_once(lock: Lock, pauses: list[float]) -> None:
    token = lock.acquire("me@here")
    assert (lock.token, pauses) == (token, [])
    assert lock.owner
    assert lock.owner["by"] == "me@here"


def test_a_run_waits_until_the_lock_of_a_dead_run_is_stale(lock: Lock, pauses: list[float]) -> None:
    lock.take("dead", OTHER)
    assert lock.acquire("me@here") == lock.token
    assert len(pauses) == STALE_AFTER // 35 + 1


def test_a_run_fails_when_the_other_run_renews_its_lock(lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    lock.take("alive", OTHER)
    monkeypatch.setattr(time, "sleep", lambda _: grow_old(lock, -5))
    with pytest.raises(LockHeld, match="shop has been locked by you@there since 2026-01-01 00:01:00 UTC"):
        lock.acquire("me@here")
    assert lock.token == "alive"


def test_a_forced_run_does_not_wait(lock: Lock, pauses: list[float]) -> None:
    lock.take("alive", OTHER)
    assert lock.acquire("me@here", force=True) == lock.token
    assert pauses == []
