"""A host returns to its confirmed release: by the module in a run that failed, or by its guard without a run."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import instances, nginx, release_undo
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import Instance, NotReady
from ansible_collections.blueoctopus.site.plugins.module_utils.nginx import NginxError
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import Lock
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases
from ansible_collections.blueoctopus.site.plugins.modules import release_undo as module
from modules import Programs, Steps
from nginx_site import needs_nginx

NAME = release_undo.__name__
V1, V2, V3 = (f"2026010{n}T000000Z-{n:010x}" for n in (1, 2, 3))


# --- the module -------------------------------------------------------------------------------------------------------


@pytest.fixture
def failed(steps: Steps, programs: Programs) -> Steps:
    """An app with a good release, on whose host the second one is live but failed."""
    steps.store.make_live(steps.build(V1))
    steps.store.record("deploy", V1, "ok")
    steps.store.make_live(steps.build(V2))
    steps.store.record("deploy", V2, "begun", by="me")
    programs.prints("systemctl is-active", "active")
    return steps


@needs_nginx
def test_the_previous_release_is_live_again_and_the_history_has_the_reason(failed: Steps, programs: Programs) -> None:
    result = failed.run(module, V2, former=V1, reason="web2: KeyError: 'KEY'", by="me")
    assert (result["changed"], result["live"]) == (True, V1)
    assert failed.store.live == V1
    assert failed.store.complete() == [V1]
    assert "systemctl reload nginx" in programs.calls()
    last = failed.store.history()[-1]
    assert (last["release"], last["result"], last["reason"]) == (V2, "failed", "web2: KeyError: 'KEY'")


@needs_nginx
def test_a_release_that_is_not_good_on_this_host_is_not_restored_but_its_own_one(failed: Steps) -> None:
    assert failed.run(module, V2, former="20260103T000000Z-0000000003", own=V1)["live"] == V1


@needs_nginx
def test_a_stopped_app_stays_stopped_also_if_this_host_has_confirmed_the_new_release(steps: Steps) -> None:
    steps.build(V1)
    steps.store.record("deploy", V1, "ok")
    steps.store.record("stop", V1, "ok")
    steps.store.record("deploy", V2, "begun")
    steps.store.make_live(steps.build(V2))
    steps.store.record("deploy", V2, "ok")
    assert steps.run(module, V2, former=V1, stopped=True)["live"] == ""
    assert (steps.store.stopped, steps.store.complete()) == (True, [V1])


def test_without_the_release_from_before_nothing_is_changed(failed: Steps) -> None:
    shutil.rmtree(failed.store.path(V1))
    result = failed.run(module, V2, former=V2, own=V1)
    assert f"release {V1}, which was live before, is no longer on this host" in result["msg"]
    assert (failed.store.live, failed.store.complete()) == (V2, [V2])


def test_when_the_common_release_does_not_start_the_host_returns_to_its_own(
    failed: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed.store.record("deploy", failed.build(V3), "ok")
    tried: list[str] = []

    def restore(_store: Releases, to: str, *_args: Any) -> None:
        tried.append(to)
        if to == V1:
            raise NotReady("it stopped right after the start")

    monkeypatch.setattr(module, "restore", restore)
    assert failed.run(module, V2, former=V1, own=V3)["changed"]
    assert tried == [V1, V3]


@needs_nginx
@pytest.mark.parametrize("former", [V1, ""], ids=["a former release", "the first deploy"])
def test_on_a_full_disk_the_failed_release_is_removed_before_the_undo_is_recorded(
    steps: Steps, programs: Programs, monkeypatch: pytest.MonkeyPatch, former: str
) -> None:
    if former:
        steps.store.make_live(steps.build(former))
        steps.store.record("deploy", former, "ok")
    steps.store.record("deploy", steps.build(V2), "begun")
    steps.store.make_live(V2)
    steps.store.record("deploy", V2, "ok")  # this host has confirmed it, another one has failed
    programs.prints("systemctl is-active", "active")
    real = Releases.record

    def record(self: Releases, *args: Any) -> None:
        if self.path(V2).exists():
            raise OSError(errno.ENOSPC, "no space left on device")
        real(self, *args)

    monkeypatch.setattr(Releases, "record", record)
    release_undo.restore(steps.store, former, "web2 failed", {"action": "deploy", "release": V2, "by": "me"})
    assert (steps.store.confirmed, steps.store.complete()) == (former, [former] * bool(former))
    assert "failed" in [event["result"] for event in steps.store.history()]


def test_a_first_deploy_that_failed_before_its_build_leaves_nothing(steps: Steps) -> None:
    shutil.rmtree(steps.store.root)
    assert "live" in steps.run(module, V1, former="")
    assert not steps.store.root.exists()


def test_check_mode_restores_nothing(failed: Steps, programs: Programs) -> None:
    programs.calls()
    assert not failed.run(module, V2, check=True, former=V1)["changed"]
    assert failed.store.live == V2
    assert programs.calls() == []


# --- the history after an undo that failed ----------------------------------------------------------------------------


def failures(store: Releases) -> list[tuple[str, str, str]]:
    """The failed runs in the history: the action, the release and the reason."""
    return [(e["action"], e["release"], e["reason"]) for e in store.history() if e["result"] == "failed"]


@needs_nginx
@pytest.mark.parametrize("begun", [True, False], ids=["after the switch", "before the switch"])
def test_a_failed_deploy_whose_undo_fails_too_is_in_the_history_once_with_its_reason(
    failed: Steps, programs: Programs, begun: bool
) -> None:
    store = failed.store
    if not begun:  # the new release was not made live, but nginx must reload for something else
        store.make_live(V1)
        store._history.write_text("".join(line for line in store._history.open() if '"begun"' not in line))
        nginx.reload_pending().touch()
    programs.fails("systemctl reload")
    assert "nginx can't be reloaded" in failed.run(module, V2, former=V1, reason="web2: KeyError", by="me")["msg"]
    expected = [("deploy", V2, "web2: KeyError")]
    assert failures(store) == expected  # at once, also for the case that the undo never succeeds
    with pytest.raises(NginxError):
        release_undo.restore(store, store.confirmed, release_undo.INTERRUPTED)  # the guard
    programs.fails("systemctl reload", False)
    release_undo.restore(store, store.confirmed, release_undo.INTERRUPTED)
    assert (store.live, store.complete(), failures(store)) == (V1, [V1], expected)


@needs_nginx
def test_an_interrupted_deploy_that_the_host_cannot_undo_is_in_the_history_once(
    failed: Steps, programs: Programs
) -> None:
    programs.fails("systemctl reload")
    for _ in range(2):
        with pytest.raises(NginxError):
            release_undo.restore(failed.store, failed.store.confirmed, release_undo.INTERRUPTED)
        assert failures(failed.store) == [("deploy", V2, release_undo.INTERRUPTED)]


@needs_nginx
def test_a_deploy_that_goes_on_after_its_guard_has_noted_its_failure_is_in_the_history_once(
    failed: Steps, programs: Programs
) -> None:
    programs.fails("systemctl reload")
    with pytest.raises(NginxError):
        release_undo.restore(failed.store, failed.store.confirmed, release_undo.INTERRUPTED)
    programs.fails("systemctl reload", False)
    assert failed.run(module, V2, former=V1, reason="the control node was suspended", by="me")["live"] == V1
    assert failures(failed.store) == [("deploy", V2, release_undo.INTERRUPTED)]


@needs_nginx
def test_a_second_rollback_to_the_same_release_that_fails_is_in_the_history_too(steps: Steps) -> None:
    steps.store.make_live(steps.build(V1))
    steps.store.record("deploy", V1, "ok")
    with steps.store._history.open("a") as history:
        for result in ("begun", "failed"):
            event = {"action": "rollback", "release": V2, "result": result, "by": "me", "reason": "the first one"}
            history.write(json.dumps({"time": "2026-01-01T00:00:00Z", "from": V1, "commit": ""} | event) + "\n")
    steps.run(module, V2, own=V1, action="rollback", reason="the second one", by="me")
    assert failures(steps.store) == [("rollback", V2, reason) for reason in ("the first one", "the second one")]


@needs_nginx
def test_a_failed_deploy_is_in_the_history_once_when_only_the_own_release_of_the_host_starts(
    failed: Steps, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed.store.record("deploy", failed.build(V3), "ok")
    programs.prints("systemctl is-active", "inactive")

    def wait_or_stop(instance: Instance) -> None:
        if instance.release == V1:
            raise NotReady("It stopped right after the start.")

    monkeypatch.setattr(release_undo, "wait_or_stop", wait_or_stop)
    result = failed.run(module, V2, former=V1, own=V3, reason="web2: KeyError")
    assert (result["live"], failed.store.confirmed) == (V3, V3)
    assert failures(failed.store) == [("deploy", V2, "web2: KeyError")]


@needs_nginx
def test_a_failed_deploy_is_in_the_history_once_when_the_disk_gets_full_in_between(
    steps: Steps, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps.store.make_live(steps.build(V1))
    steps.store.record("deploy", V1, "ok")
    steps.store.make_live(steps.build(V2))
    steps.store.record("deploy", V2, "ok")  # this host has confirmed it, another one has failed
    programs.prints("systemctl is-active", "active")
    real = Releases.record

    def record(self: Releases, action: str, *args: Any) -> None:
        if action == "undo" and self.path(V2).exists():
            raise OSError(errno.ENOSPC, "no space left on device")
        real(self, action, *args)

    monkeypatch.setattr(Releases, "record", record)
    release_undo.restore(steps.store, V1, "web2 failed", {"action": "deploy", "release": V2, "by": "me"})
    assert (steps.store.confirmed, failures(steps.store)) == (V1, [("deploy", V2, "web2 failed")])


# --- the guard --------------------------------------------------------------------------------------------------------


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that would start guards. Their files are in `tmp_path`."""
    commands: list[list[str]] = []

    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(release_undo, "GUARDS", tmp_path / "guards")
    monkeypatch.setattr(instances, "UNITS", tmp_path / "units")
    with monkeypatch.context() as patched:
        patched.setattr("subprocess.run", run)
        release_undo.start_guard("shop", "/srv/shop", "a" * 32)
    return commands


def test_the_guard_runs_from_its_own_copy_of_the_code(tmp_path: Path, started: list[list[str]]) -> None:
    (command,) = started
    program = tmp_path / "guards/shop-aaaaaaaa.pyz"
    assert command[-6:] == ["/usr/bin/python3", "-I", str(program), "shop", "/srv/shop", "a" * 32]
    code = f"import sys; sys.path.insert(0, {str(program)!r}); import {NAME} as copy; print(copy.__file__)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert Path(done.stdout.strip()).is_relative_to(program), done.stderr
    # No run has the lock, so it ends immediately.
    done = subprocess.run([sys.executable, "-I", program, "shop", tmp_path, "a" * 32], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.needs("systemd-analyze")
def test_the_guard_starts_again_with_the_host(tmp_path: Path, started: list[list[str]]) -> None:
    (command,) = started
    unit = tmp_path / "units/release-restore-shop-aaaaaaaa.service"
    assert (tmp_path / "units/multi-user.target.wants" / unit.name).resolve() == unit
    assert f"ExecStart={' '.join(command[-6:])} restarted\n" in unit.read_text()
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_guard_that_ends_removes_its_files(
    tmp_path: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert started
    monkeypatch.setattr("sys.argv", ["guard", "shop", str(tmp_path), "a" * 32])
    release_undo.guard()
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def test_a_guard_that_cannot_be_started_is_an_error(started: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert started
    failed = subprocess.CompletedProcess([], 1, "", "no bus")
    monkeypatch.setattr("subprocess.run", lambda *_args, **_options: failed)
    with pytest.raises(OSError, match="can't start the process that watches this run: no bus"):
        release_undo.start_guard("shop", "/srv/shop", "a" * 32)


# --- after a restart of the host --------------------------------------------------------------------------------------


def confirm(store: Releases) -> None:
    """Make the first release live, and confirm it."""
    store.path(V1).mkdir()
    (store.path(V1) / "release.json").write_text("{}")
    store.make_live(V1)
    store.record("deploy", V1, "ok")


@pytest.fixture
def interrupted(store: Releases) -> Releases:
    """An app with the confirmed first release, whose host has restarted during the deploy of the second one."""
    confirm(store)
    store.record("deploy", V2, "begun")
    return store


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls of `restore`, which fails at the first call and then records the end of the run; no pauses."""
    calls: list[Any] = []

    def restore(store: Releases, to: str, reason: str) -> None:
        calls.append((to, reason))
        if len(calls) == 1:
            raise OSError("the disk is full")
        store.record("deploy", V2, "failed", reason)

    monkeypatch.setattr(release_undo, "restore", restore)
    monkeypatch.setattr(release_undo, "PAUSE", 0)
    return calls


def test_a_restarted_host_restores_its_confirmed_release_until_it_succeeds(
    tmp_path: Path, interrupted: Releases, restored: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    lock = Lock("shop", tmp_path / "locks")
    release_undo.restore_after_restart(lock, interrupted)
    assert restored == [(V1, "the run was interrupted")] * 2
    assert capsys.readouterr().err == "the disk is full\n"
    assert lock.token == ""


def test_a_restarted_host_leaves_an_app_to_the_run_that_has_locked_it(
    tmp_path: Path, interrupted: Releases, restored: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = Lock("shop", tmp_path / "locks")
    lock.take("other", {"by": "me@here", "since": "2026-01-01 00:00:00 UTC"})
    renewals = iter(range(10_000))
    monkeypatch.setattr("time.sleep", lambda _: lock._write("renewed", str(10**9 + next(renewals))))
    release_undo.restore_after_restart(lock, interrupted)
    assert restored == []
    assert lock.token == "other"


def test_a_restarted_host_with_its_confirmed_release_does_nothing(
    tmp_path: Path, store: Releases, restored: list[Any]
) -> None:
    confirm(store)
    release_undo.restore_after_restart(Lock("shop", tmp_path / "locks"), store)
    assert restored == []
    assert not (tmp_path / "locks").exists()


def test_a_restarted_host_removes_the_previous_release_that_a_run_no_longer_drained(
    tmp_path: Path, store: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirm(store)
    units, calls = {store.confirmed: ["a"], "20250101T000000Z-0000000001": ["b"]}, []

    def restore(_store: Releases, to: str, _reason: str) -> None:
        calls.append(to)
        units.pop("20250101T000000Z-0000000001")

    monkeypatch.setattr(release_undo, "installed_units", lambda _name: units)
    monkeypatch.setattr(release_undo, "restore", restore)
    release_undo.restore_after_restart(Lock("shop", tmp_path / "locks"), store)
    assert calls == [store.confirmed]


def test_a_restarted_host_removes_a_release_that_is_not_complete(
    tmp_path: Path, store: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirm(store)
    building = store.folder / f".building-{V2}"
    building.mkdir()
    monkeypatch.setattr(release_undo, "restore", lambda store, _to, _reason: store.sweep())
    release_undo.restore_after_restart(Lock("shop", tmp_path / "locks"), store)
    assert not building.exists()
