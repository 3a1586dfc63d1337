"""The lock of an app on a host: only one run at a time, even when other runs die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.action import release_lock as action
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import (
    ABANDONED,
    STALE_AFTER,
    Lock,
    LockLost,
    identity,
    new_token,
    shell_command,
)
from ansible_collections.blueoctopus.site.plugins.plugin_utils import lock_renewal
from locks import grow_old

OWNER = {"by": "me@here", "since": "2026-01-01 00:00:00 UTC"}
OTHER = {"by": "you@there", "since": "2026-01-01 00:01:00 UTC"}


@pytest.fixture
def lock(tmp_path: Path) -> Lock:
    """A free lock."""
    return Lock("shop", tmp_path / "releases")


def shell(lock: Lock, token: str, action: str) -> int:
    """Run the command for the host like Ansible does; return its exit status."""
    return subprocess.run(["sh", "-c", shell_command(lock.name, token, action, lock.folder.parent)]).returncode


# --- take and free --------------------------------------------------------------------------------------------------


def test_only_one_run_at_a_time_has_the_lock(lock: Lock) -> None:
    assert lock.owner is None
    assert lock.take("a", OWNER)
    assert not lock.take("b", OTHER)
    assert lock.token == "a"
    assert lock.owner == OWNER


def test_the_run_that_has_the_lock_may_take_it_again(lock: Lock) -> None:
    assert lock.take("a", OWNER)
    assert lock.take("a", OWNER)
    assert lock.token == "a"


def test_a_freed_lock_is_free(lock: Lock) -> None:
    lock.take("a", OWNER)
    lock.free("a")
    assert (lock.token, lock.owner) == ("", None)
    assert lock.take("b", OTHER)


def test_a_run_cannot_free_the_lock_of_another_run(lock: Lock) -> None:
    lock.take("a", OWNER)
    lock.free("b")
    assert lock.token == "a"
    assert lock.owner == OWNER


def test_two_apps_have_two_locks(lock: Lock) -> None:
    assert lock.take("a", OWNER)
    assert Lock("blog", lock.folder.parent).take("b", OTHER)


def test_only_root_can_enter_the_folder(lock: Lock) -> None:
    lock.take("a", OWNER)
    assert [path.stat().st_mode & 0o777 for path in (lock.folder.parent, lock.folder)] == [0o700, 0o700]


def test_a_lock_without_a_readable_owner_is_still_a_lock(lock: Lock) -> None:
    lock.take("a", OWNER)
    (lock.folder / "owner").write_text('{"by"')
    assert lock.owner == {"by": "an unknown run", "since": ""}
    assert not lock.take("b", OTHER)


def test_tokens_are_unique() -> None:
    assert len({new_token() for _ in range(100)}) == 100


# --- locks of runs that have died -----------------------------------------------------------------------------------


def test_a_stale_lock_is_taken_over(lock: Lock) -> None:
    lock.take("a", OWNER)
    grow_old(lock, STALE_AFTER + 1)
    assert lock.is_stale
    assert lock.take("b", OTHER)
    assert (lock.token, lock.owner, lock.is_stale) == ("b", OTHER, False)


def test_a_recently_renewed_lock_is_not_stale(lock: Lock) -> None:
    lock.take("a", OWNER)
    grow_old(lock, STALE_AFTER - 10)
    assert not lock.is_stale
    assert not lock.take("b", OTHER)


def test_a_truncated_renewal_is_stale(lock: Lock) -> None:
    lock.take("a", OWNER)
    (lock.folder / "renewed").write_text("")
    assert lock.is_stale
    assert lock.take("b", OTHER)


@pytest.mark.parametrize("shift", [-1e9, -3600, 3600, 1e9])
def test_a_change_of_the_clock_does_not_make_a_lock_stale(
    lock: Lock, monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    lock.take("a", OWNER)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + shift)
    assert not lock.is_stale
    assert not lock.take("b", OTHER)
    # It does not keep an old lock from being stale either.
    grow_old(lock, STALE_AFTER + 1)
    assert lock.is_stale


# --- take over ------------------------------------------------------------------------------------------------------


def test_force_takes_over_and_the_other_run_may_not_continue(lock: Lock) -> None:
    lock.take("a", OWNER)
    assert lock.take("b", OTHER, force=True)
    with pytest.raises(LockLost, match="you@there has it now"):
        lock.check("a")
    reached = False
    with pytest.raises(LockLost, match="no longer has the lock of shop"), lock.work("a"):
        reached = True
    assert not reached
    with lock.work("b"):
        lock.check("b")


def test_a_run_without_the_lock_may_not_work(lock: Lock) -> None:
    with pytest.raises(LockLost), lock.work("a"):
        pass


def test_an_empty_token_is_not_valid_for_the_lock_of_another_run(lock: Lock) -> None:
    lock.take("a", OWNER)
    with pytest.raises(LockLost), lock.work(""):
        pass


# --- work -----------------------------------------------------------------------------------------------------------


def worker(lock: Lock, token: str) -> int:
    """Start a process that changes the app and does not end by itself; return its id."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            with lock.work(token):
                os.write(writer, b"!")
                time.sleep(60)
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"!"
    os.close(reader)
    return child


def end(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_a_running_process_makes_others_wait_and_then_fail(lock: Lock) -> None:
    lock.take("a", OWNER)
    former = worker(lock, "a")
    try:
        lock.take("b", OTHER, force=True)
        begun = time.monotonic()
        with pytest.raises(LockLost, match="still running"), lock.work("b", patience=0.3):
            pass
        assert time.monotonic() - begun >= 0.3
    finally:
        end(former)


def test_a_killed_process_does_not_block_others(lock: Lock) -> None:
    lock.take("a", OWNER)
    end(worker(lock, "a"))
    assert lock.token == "a"  # the end of the process does not free the lock itself
    with lock.work("a", patience=0):
        pass


def test_a_waiting_run_continues_when_the_running_process_ends(lock: Lock) -> None:
    lock.take("a", OWNER)
    former = worker(lock, "a")
    killer = threading.Timer(0.3, end, [former])
    begun = time.monotonic()
    killer.start()
    with lock.work("a", patience=30):
        assert 0.3 <= time.monotonic() - begun < 30
    killer.join()


def test_an_error_in_the_block_frees_the_kernel_lock(lock: Lock) -> None:
    lock.take("a", OWNER)
    with pytest.raises(ZeroDivisionError), lock.work("a"):
        raise ZeroDivisionError
    with lock.work("a", patience=0):
        pass


def test_a_lock_lost_while_waiting_is_detected_before_the_block_runs(lock: Lock) -> None:
    lock.take("a", OWNER)
    former = worker(lock, "a")

    def take_over() -> None:
        lock.take("b", OTHER, force=True)
        end(former)

    timer = threading.Timer(0.2, take_over)
    timer.start()
    with pytest.raises(LockLost, match="you@there has it now"), lock.work("a", patience=30):
        pass
    timer.join()


# --- the commands for the host --------------------------------------------------------------------------------------


def test_the_command_renew_renews(lock: Lock) -> None:
    lock.take("a", OWNER)
    taken = lock.renewed
    grow_old(lock, STALE_AFTER + 1)
    assert shell(lock, "a", "renew") == 0
    assert not lock.is_stale
    assert abs(lock.renewed - taken) < 30
    assert lock.token == "a"


def test_after_the_command_abandon_the_next_run_can_take_over(lock: Lock) -> None:
    lock.take("a", OWNER)
    assert shell(lock, "a", "abandon") == 0
    assert lock.renewed == ABANDONED
    assert lock.token == "a"
    assert lock.take("b", OTHER)


def test_an_abandoned_lock_cannot_be_renewed(lock: Lock) -> None:
    lock.take("a", OWNER)
    assert shell(lock, "a", "abandon") == 0
    assert shell(lock, "a", "renew") == 9
    assert lock.renewed == ABANDONED
    assert shell(lock, "a", "free") == 0


def test_the_command_free_frees_the_lock(lock: Lock) -> None:
    lock.take("a", OWNER)
    lock.set_guard("a")
    lock.fail("a", OSError("the disk is full"))
    assert shell(lock, "a", "free") == 0
    assert (lock.token, lock.owner, lock.failure) == ("", None, None)
    assert [path.name for path in lock.folder.iterdir()] == ["mutex"]


@pytest.mark.parametrize("action", ["renew", "abandon", "free"])
def test_a_command_of_a_run_without_the_lock_changes_nothing_and_exits_with_9(lock: Lock, action: str) -> None:
    lock.take("b", OTHER)
    before = {path.name: path.read_bytes() for path in lock.folder.iterdir()}
    assert shell(lock, "a", action) == 9
    assert {path.name: path.read_bytes() for path in lock.folder.iterdir()} == before


@pytest.mark.parametrize("action", ["renew", "abandon", "free"])
def test_a_command_for_a_free_lock_exits_with_9(lock: Lock, action: str) -> None:
    lock.take("a", OWNER)
    lock.free("a")
    assert shell(lock, "a", action) == 9
    assert lock.token == ""


def test_a_command_after_a_reboot_exits_with_9(lock: Lock) -> None:
    assert shell(lock, "a", "renew") == 9


def test_a_command_works_for_a_folder_with_special_characters(tmp_path: Path) -> None:
    lock = Lock("shop", tmp_path / "a 'b' $c")
    lock.take("a", OWNER)
    assert shell(lock, "a", "free") == 0
    assert lock.token == ""


def test_a_command_waits_while_another_process_takes_the_lock(lock: Lock) -> None:
    lock.take("a", OWNER)
    command = shell_command("shop", "a", "free", lock.folder.parent)
    with lock._held("mutex", 0):
        running: subprocess.Popen[Any] = subprocess.Popen(["sh", "-c", command])
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(0.3)
        assert lock.token == "a"
    assert running.wait(10) == 0
    assert lock.token == ""


def test_a_zombie_process_counts_as_ended() -> None:
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    assert identity(ended.pid) == ""
    ended.wait()
    assert identity(ended.pid) == ""
    assert identity(os.getpid()) == identity(os.getpid()) != ""


def test_a_task_finds_the_process_of_its_run() -> None:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    task = context.Process(target=lambda: sender.send(lock_renewal.run_process()))
    task.start()
    assert receiver.poll(10)
    assert receiver.recv() == os.getpid()
    task.join(10)


def test_a_run_renews_its_lock_while_a_module_works_for_long(lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_renewal, "RENEWAL_INTERVAL", 0.1)
    monkeypatch.setattr(lock_renewal, "CHECK_INTERVAL", 0.05)
    monkeypatch.setattr(
        lock_renewal, "shell_command", lambda name, token, what: shell_command(name, token, what, lock.folder.parent)
    )
    run = action.ActionModule.__new__(action.ActionModule)
    run.ansible, run.begun = os.getpid(), identity(os.getpid())

    def execute(command: str) -> dict[str, int]:
        return {"rc": subprocess.run(["sh", "-c", command]).returncode}

    monkeypatch.setattr(run, "_low_level_execute_command", execute, raising=False)
    lock.take("a", OWNER)
    module = worker(lock, "a")
    run.renew_in_background("shop", "a", "abandon")
    try:
        for _ in range(2):
            grow_old(lock, STALE_AFTER + 1)
            deadline = time.monotonic() + 30
            while lock.is_stale and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not lock.is_stale
    finally:
        end(module)
        lock.free("a")  # ends the renewal
