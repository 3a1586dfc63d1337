"""A host that can't end an interrupted run: what the status says about it, and what becomes of it."""

from __future__ import annotations

import functools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import app_status, host_state, release_undo, removal
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import STALE_AFTER, Lock
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases
from ansible_collections.blueoctopus.site.plugins.modules import host_status
from ansible_collections.blueoctopus.site.plugins.plugin_utils.status import document
from ansible_collections.blueoctopus.site.plugins.plugin_utils.status_table import problem_lines, table
from locks import grow_old
from modules import call
from status_examples import SCHEMA

OWNER = {"by": "me@here", "since": "2026-01-01 00:00:00 UTC"}
V1, V2 = (f"2026010{n}T000000Z-{n:010x}" for n in (1, 2))
ERROR = 'nginx can\'t be reloaded: Job for nginx.service failed.\nSee "systemctl status nginx.service"'


@pytest.fixture
def lock(store: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lock:
    """The free lock of an app on a host, which the status reads, too."""
    folder = tmp_path / "locks"
    for module in (app_status, removal):
        monkeypatch.setattr(module, "APPS", store.root.parent)
    monkeypatch.setattr(app_status, "Lock", functools.partial(Lock, folder=folder))
    monkeypatch.setattr(host_state, "UPDATES", tmp_path / "kept.json")
    monkeypatch.setattr(host_status, "installed_apps", list)
    return Lock(store.name, folder)


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The attempts of guards to restore the host, each of which fails while the list has not "fixed"; no pauses."""
    made: list[str] = []

    def restore(_store: Releases, to: str, _reason: str) -> None:
        if "fixed" not in made:
            made.append(to)
            raise OSError(ERROR)

    monkeypatch.setattr(release_undo, "restore", restore)
    monkeypatch.setattr(release_undo, "PAUSE", 0.02)
    return made


@pytest.fixture
def guard(lock: Lock, store: Releases, attempts: list[str]) -> Iterator[threading.Thread]:
    """The guard of an interrupted run, which has failed to restore the host."""
    lock.take("a", OWNER)
    lock.set_guard("a")
    lock.abandon("a")
    running = threading.Thread(target=release_undo.watch, args=(lock, store, "a"), daemon=True)
    running.start()
    wait_for(lambda: len(attempts) > 1)
    yield running
    attempts.append("fixed")
    running.join(10)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def status() -> dict[str, Any]:
    """The status of this host, which must match its schema."""
    found = document({"web1": call(host_status, apps=["shop"])})
    jsonschema.validate(json.loads(json.dumps(found)), SCHEMA)
    return found


def unfinished(found: dict[str, Any] | None = None) -> list[str]:
    """The problems of the kind unfinished."""
    return [entry["text"] for entry in (found or status())["problems"] if entry["kind"] == "unfinished"]


# --- a guard that fails again and again -------------------------------------------------------------------------------


@pytest.mark.usefixtures("programs", "guard")
def test_a_host_that_cannot_end_an_interrupted_run_is_a_problem_with_the_time_and_the_error() -> None:
    found = status()
    (app,) = found["hosts"]["web1"]["apps"]
    failed = app["failed_end"]
    assert failed["error"] == " ".join(ERROR.splitlines())
    assert failed["tries_again"]
    assert abs((app_status.parse_time(failed["since"]) or 0) - time.time()) < 60
    words = f"every ten seconds, without success since {failed['since']}: {failed['error']}"
    assert unfinished(found) == [f"the host repeats the end of an interrupted run {words}"]
    assert any(words in line for line in problem_lines(found))
    assert table(found)[1].startswith("!")


@pytest.mark.usefixtures("programs")
def test_it_fails_since_the_first_attempt(lock: Lock, guard: threading.Thread, attempts: list[str]) -> None:
    assert guard.is_alive()
    noted = lock.folder / "failure"
    noted.write_text(json.dumps(json.loads(noted.read_text()) | {"since": "2026-01-02T03:04:05Z"}))
    before = len(attempts)
    wait_for(lambda: len(attempts) > before + 1)
    lock.fail("a", OSError(ERROR))
    lock.take("b", OWNER, force=True)
    lock.fail("b", OSError(ERROR))  # the guard of another run fails, too
    assert "without success since 2026-01-02T03:04:05Z: nginx can't be reloaded" in unfinished()[0]


@pytest.mark.usefixtures("programs")
def test_it_is_no_problem_any_more_once_the_host_has_succeeded(
    lock: Lock, guard: threading.Thread, attempts: list[str]
) -> None:
    assert unfinished()
    attempts.append("fixed")
    guard.join(10)
    assert unfinished() == []
    assert {path.name for path in lock.folder.iterdir()} == {"mutex", "work"}


@pytest.mark.usefixtures("programs", "guard")
def test_it_is_no_problem_while_another_run_is_responsible_and_after_its_end(lock: Lock) -> None:
    lock.take("b", OWNER)
    assert unfinished() == []  # it may not have a guard yet
    lock.set_guard("b")
    assert unfinished() == []
    lock.free("b")
    assert unfinished() == []


@pytest.mark.usefixtures("programs", "guard")
def test_it_is_a_problem_again_after_a_run_that_has_no_guard_and_has_failed(lock: Lock) -> None:
    lock.take("b", OWNER)
    lock.free("b")
    assert "nginx can't be reloaded" in unfinished()[0]


@pytest.mark.usefixtures("programs", "attempts")
def test_a_restarted_host_that_cannot_restore_its_release_is_a_problem(lock: Lock, attempts: list[str]) -> None:
    Releases("shop", app_status.APPS / "shop").record("deploy", V2, "begun")
    store = Releases("shop", app_status.APPS / "shop")
    restoring = threading.Thread(target=release_undo.restore_after_restart, args=(lock, store), daemon=True)
    restoring.start()
    wait_for(lambda: len(attempts) > 2)
    for _ in range(20):  # during an attempt and between two of them
        assert "every ten seconds, without success since" in unfinished()[0]
    store.record("deploy", V2, "failed")  # somebody has ended it by hand
    attempts.append("fixed")
    restoring.join(10)
    assert unfinished() == []
    assert lock.token == ""


@pytest.mark.usefixtures("programs")
def test_a_restarted_host_tries_until_it_succeeds_although_the_first_attempt_has_ended_the_run_in_the_history(
    lock: Lock, store: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.record("deploy", V2, "begun")
    attempts: list[int] = []

    def restore(_store: Releases, _to: str, reason: str) -> None:
        if not attempts:
            store.record("deploy", V2, "failed", reason)
        attempts.append(len(attempts))
        if len(attempts) < 3:
            raise OSError(ERROR)

    monkeypatch.setattr(release_undo, "restore", restore)
    monkeypatch.setattr(release_undo, "PAUSE", 0.02)
    release_undo.restore_after_restart(lock, store)
    assert len(attempts) == 3


# --- a guard that was killed ------------------------------------------------------------------------------------------


@pytest.fixture
def killed(lock: Lock, store: Releases, attempts: list[str]) -> Lock:
    """The lock of an interrupted run whose guard has failed to restore the host, and was then killed."""
    del attempts
    lock.take("a", OWNER)
    lock.set_guard("a")
    lock.abandon("a")
    child = os.fork()
    if child == 0:
        try:
            release_undo.watch(lock, store, "a")
        finally:
            os._exit(1)
    try:
        wait_for(lambda: (lock.folder / "failure").exists())
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return lock


@pytest.mark.usefixtures("programs", "killed")
def test_a_guard_that_was_killed_does_not_count_as_one_that_tries_again() -> None:
    (text,) = unfinished()
    assert "no longer tries" in text
    assert "every ten seconds" not in text
    assert text.endswith("run the same command again")


@pytest.mark.usefixtures("programs")
def test_the_files_of_a_guard_that_was_killed_are_no_run(lock: Lock) -> None:
    lock.take("a", OWNER)
    lock.set_guard("a")
    lock.free("a")
    (lock.folder / "guard").write_text("a")
    (lock.folder / ".renewed.new").write_text("1")
    (app,) = status()["hosts"]["web1"]["apps"]
    assert (app["locked_by"], app["failed_end"], app["unfinished"]) == (None, None, False)
    assert lock.take("b", OWNER)
    lock.set_guard("b")
    lock.free("b")
    assert {path.name for path in lock.folder.iterdir()} == {"mutex"}


@pytest.mark.usefixtures("programs")
def test_a_guard_takes_no_lock_that_its_run_has_freed(lock: Lock) -> None:
    lock.take("a", OWNER)
    lock.set_guard("a")
    grow_old(lock, STALE_AFTER + 1)
    lock.free("a")  # after the guard has looked
    assert not lock.adopt("a")
    assert (lock.token, lock.guard) == ("", "")
