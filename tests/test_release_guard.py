"""The guard of a run: how long it is responsible for a host, and what a run does that takes over the lock."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import release_lock, release_undo
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import NotReady
from ansible_collections.blueoctopus.site.plugins.module_utils.nginx import NginxError
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import STALE_AFTER, Lock, LockLost
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases
from ansible_collections.blueoctopus.site.plugins.modules import release_lock as module
from locks import grow_old
from modules import Programs, Steps, call
from nginx_site import needs_nginx

OWNER = {"by": "me@here", "since": "2026-01-01 00:00:00 UTC"}
V1, V2 = (f"2026010{n}T000000Z-{n:010x}" for n in (1, 2))
Watch = Callable[[str], threading.Thread]


@pytest.fixture
def lock(tmp_path: Path) -> Lock:
    """A free lock."""
    return Lock("shop", tmp_path / "locks")


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The releases that guards have restored, without changing anything."""
    calls: list[str] = []
    monkeypatch.setattr(release_undo, "restore", lambda _store, to, _reason: calls.append(to))
    monkeypatch.setattr(release_undo, "PAUSE", 0.02)
    return calls


@pytest.fixture
def watch(lock: Lock, store: Releases, restored: list[str]) -> Iterator[Watch]:
    """Starts the guard of a run."""
    del restored  # its guards restore nothing
    guards: list[threading.Thread] = []

    def start(token: str) -> threading.Thread:
        guards.append(threading.Thread(target=release_undo.watch, args=(lock, store, token), daemon=True))
        guards[-1].start()
        return guards[-1]

    yield start
    lock.take("the end", OWNER, force=True)
    lock.set_guard("the end")
    for guard in guards:
        guard.join(10)


def ends(guard: threading.Thread) -> bool:
    guard.join(5)
    return not guard.is_alive()


# --- the guard --------------------------------------------------------------------------------------------------------


def test_a_guard_ends_with_its_run(lock: Lock, watch: Watch, restored: list[str]) -> None:
    lock.take("a", OWNER)
    lock.set_guard("a")
    guard = watch("a")
    lock.free("a")
    assert ends(guard)
    assert (lock.token, lock.guard, restored) == ("", "", [])


def test_a_run_whose_lock_was_taken_over_gets_no_guard(lock: Lock) -> None:
    lock.take("a", OWNER)
    lock.set_guard("a")
    lock.take("b", OWNER, force=True)
    lock.take("c", OWNER, force=True)
    with pytest.raises(LockLost):
        lock.set_guard("b")  # so that it removes no file of the guard that is responsible
    assert lock.guard == "a"


def test_a_guard_restores_the_host_when_its_run_has_died(lock: Lock, watch: Watch, restored: list[str]) -> None:
    lock.take("a", OWNER)
    lock.set_guard("a")
    guard = watch("a")
    grow_old(lock, STALE_AFTER + 1)
    assert ends(guard)
    assert (lock.token, lock.guard, restored) == ("", "", [""])


@pytest.mark.parametrize("end", ["fails", "is killed"])
def test_a_guard_stays_responsible_until_the_run_that_took_over_has_a_guard(
    lock: Lock, watch: Watch, restored: list[str], end: str
) -> None:
    lock.take("a", OWNER)
    lock.set_guard("a")
    guard = watch("a")
    lock.take("b", OWNER, force=True)  # a run that can't start its guard
    time.sleep(0.2)
    assert (guard.is_alive(), restored) == (True, [])
    if end == "fails":
        lock.free("b")
        assert lock.token == "b"  # not free until the guard has restored the host
    else:
        grow_old(lock, STALE_AFTER + 1)
    assert ends(guard)
    assert (lock.token, lock.guard, restored) == ("", "", [""])


def test_a_guard_ends_when_the_run_that_took_over_has_a_guard(lock: Lock, watch: Watch, restored: list[str]) -> None:
    lock.take("a", OWNER)
    lock.set_guard("a")
    guard = watch("a")
    lock.take("b", OWNER, force=True)
    lock.set_guard("b")
    assert ends(guard)
    assert (lock.token, lock.guard, restored) == ("b", "b", [])


def test_a_guard_that_fails_tries_again(lock: Lock, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def restore(*_args: Any) -> None:
        attempts.append(lock.token)
        if len(attempts) < 3:
            raise OSError("the disk is full")

    monkeypatch.setattr(release_undo, "restore", restore)
    lock.take("a", OWNER)
    lock.set_guard("a")
    guard = watch("a")
    lock.abandon("a")
    assert ends(guard)
    assert (attempts, lock.token) == (["a"] * 3, "")


def test_a_run_that_waits_for_a_dead_run_takes_the_lock_while_the_guard_restores_the_host(
    lock: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock.take("dead", OWNER)

    def pause(_seconds: float) -> None:
        grow_old(lock, STALE_AFTER + 1)
        lock.adopt("dead")  # the guard is faster

    monkeypatch.setattr(time, "sleep", pause)
    assert lock.acquire("me@here") == lock.token


def test_a_guard_adopts_no_lock_of_a_living_run(lock: Lock) -> None:
    lock.take("alive", OWNER)
    assert not lock.adopt("dead")
    assert lock.token == "alive"


# --- the module -------------------------------------------------------------------------------------------------------


@pytest.fixture
def take(steps: Steps, lock: Lock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """Take the lock like a deploy does; its guard is not started."""
    lock.free(steps.token)
    monkeypatch.setattr(release_undo, "GUARDS", tmp_path / "guards")
    monkeypatch.setattr(module, "Lock", functools.partial(Lock, folder=lock.folder.parent))
    monkeypatch.setattr(module, "start_guard", lambda *_args: None)
    monkeypatch.setattr(Releases, "check_account", lambda _store: None)
    return lambda: call(module, name="shop", root=str(steps.store.root), by="me@here", force=True)


def test_a_run_is_responsible_for_the_host_once_it_has_a_guard(lock: Lock, take: Callable[[], dict[str, Any]]) -> None:
    taken = take()
    assert taken["token"] == lock.token == lock.guard


@pytest.mark.parametrize("starts", [True, False], ids=["with a guard", "without a guard"])
def test_a_run_with_a_guard_removes_the_files_of_guards_that_were_killed(
    lock: Lock, take: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch, starts: bool
) -> None:
    lock.take("a" * 32, OWNER)
    lock.set_guard("a" * 32)

    def create(name: str, token: str) -> list[Path]:
        program, unit = release_undo.guard_files(name, token)
        paths = [program, unit, release_undo.unit_link(unit)]
        for path in paths:
            path.parent.mkdir(exist_ok=True)
            path.touch()
        return paths

    killed, other = create("shop", "a" * 32), create("shop-bbbbbbbb", "a" * 32)
    own: list[Path] = []

    def start_guard(name: str, _root: str, token: str) -> None:
        if not starts:
            raise OSError("systemd-run can't start the process that watches this run")
        own.extend(create(name, token))

    monkeypatch.setattr(module, "start_guard", start_guard)
    assert bool(take().get("failed")) is not starts
    assert [path.exists() for path in killed] == [not starts] * 3
    assert all(path.exists() for path in [*own, *other])


def test_a_run_that_has_no_guard_leaves_the_host_to_the_guard_of_the_run_before(
    lock: Lock, take: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: str) -> None:
        raise OSError("systemd-run can't start the process that watches this run")

    monkeypatch.setattr(module, "start_guard", fail)
    assert take()["failed"]
    assert lock.token == ""
    lock.take("former", OWNER)
    lock.set_guard("former")
    assert take()["failed"]
    assert (lock.guard, lock.is_stale) == ("former", True)
    assert lock.token not in ("", "former")


def test_the_lock_is_renewed_while_the_module_waits(
    lock: Lock, take: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_settled(_store: Releases) -> bool:
        grow_old(lock, STALE_AFTER + 1)
        deadline = time.monotonic() + 5
        while lock.is_stale and time.monotonic() < deadline:
            time.sleep(0.05)
        return not lock.is_stale

    monkeypatch.setattr(release_lock, "RENEWAL_INTERVAL", 0.05)
    monkeypatch.setattr(module, "is_settled", is_settled)
    assert take()["settled"]


def test_a_confirmed_release_that_no_longer_starts_blocks_no_deploy(
    steps: Steps,
    lock: Lock,
    take: Callable[[], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps.store.make_live(steps.build(V1))
    steps.store.record("deploy", V1, "ok")
    steps.store.make_live(steps.build(V2))
    steps.store.record("deploy", V2, "begun")

    def restore(*_args: Any) -> None:
        raise NotReady("it stopped right after the start")

    monkeypatch.setattr(module, "restore", restore)
    taken = take()
    assert (taken["live"], taken["settled"], taken["token"]) == (V2, False, lock.token)
    warning = f"{V1} could not be restored: it stopped right after the start. So release {V2} stays live for now."
    assert warning in capsys.readouterr().err


# --- the direction of an undo -----------------------------------------------------------------------------------------


@needs_nginx
@pytest.mark.parametrize("former", [V1, ""], ids=["a former release", "the first deploy"])
def test_an_undo_that_failed_is_repeated_in_the_same_direction(steps: Steps, programs: Programs, former: str) -> None:
    if former:
        steps.store.make_live(steps.build(former))
        steps.store.record("deploy", former, "ok")
    steps.store.record("deploy", steps.build(V2), "begun")
    steps.store.make_live(V2)
    steps.store.record("deploy", V2, "ok")  # this host has confirmed it, another one has failed
    programs.prints("systemctl is-active", "active")
    programs.fails("systemctl reload")
    failed = {"action": "deploy", "release": V2, "by": "me@here"}
    with pytest.raises(NginxError):
        release_undo.restore(steps.store, former, "web2 failed", failed)
    assert steps.store.confirmed == former
    programs.fails("systemctl reload", False)
    release_undo.restore(steps.store, steps.store.confirmed, release_undo.INTERRUPTED)  # the guard
    assert (steps.store.live, steps.store.complete()) == (former, [former] * bool(former))
