"""The module that takes the steps of a restore: its options and the lock of the app."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.plugins.action import ActionBase
from ansible_collections.blueoctopus.site.plugins.action import backup_restore as action
from ansible_collections.blueoctopus.site.plugins.module_utils import release_lock
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import STALE_AFTER, Lock, shell_command
from ansible_collections.blueoctopus.site.plugins.modules import backup_restore
from ansible_collections.blueoctopus.site.plugins.plugin_utils import lock_renewal
from locks import grow_old
from modules import call


def test_options_reach_the_program_as_single_words() -> None:
    params = {"name": "shop", "step": "prepare", "at": "2026-01-02 03:04", "as_name": "", "replace": True}
    words = backup_restore.command(params | {"target": "", "from_host": "", "config": ""})
    assert words[1:] == ["restore", "shop", "--json", "--step", "prepare", "--at=2026-01-02 03:04", "--yes=replace"]


def test_a_run_neither_undoes_the_restore_of_another_one_nor_takes_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "backup"
    program.write_text(f"#!/bin/sh\necho \"$@\" >>{tmp_path}/calls\necho '{{}}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(backup_restore, "PROGRAM", str(program))
    monkeypatch.setattr(backup_restore, "PLANS", str(tmp_path))
    monkeypatch.setattr(backup_restore, "Lock", lambda name: Lock(name, tmp_path / "locks"))
    (tmp_path / "shop.json").write_text('{"stamp": "20260102T030405Z"}')
    lock = Lock("shop", tmp_path / "locks")
    assert lock.take("restore-20260102T030405Z", {"by": "ann", "since": ""})
    assert "is being changed by ann" in call(backup_restore, name="shop", step="prepare", by="bob")["msg"]
    assert not call(backup_restore, name="shop", step="undo", stamp="20270102T030405Z")["changed"]
    assert lock.token == "restore-20260102T030405Z"
    assert not (tmp_path / "calls").exists()
    assert call(backup_restore, name="shop", step="undo", stamp="20260102T030405Z")["changed"]
    assert lock.token == ""
    assert "--stamp=20260102T030405Z" in (tmp_path / "calls").read_text()


def test_a_restore_that_takes_long_keeps_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, renewed = tmp_path / "backup", tmp_path / "locks/shop/renewed"
    # It succeeds when somebody writes its renewal again.
    program.write_text(
        f"#!/bin/sh\necho 0 >{renewed}\nfor n in $(seq 100); do\n"
        f"grep -qx 0 {renewed} || exec echo '{{}}'\nsleep 0.1\ndone\n"
        "echo the lock was not renewed >&2\nexit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(backup_restore, "PROGRAM", str(program))
    monkeypatch.setattr(backup_restore, "Lock", lambda name: Lock(name, tmp_path / "locks"))
    monkeypatch.setattr(release_lock, "RENEWAL_INTERVAL", 0.1)
    result = call(backup_restore, name="shop", step="prepare", by="ann")
    assert "failed" not in result, result
    assert Lock("shop", tmp_path / "locks").token.startswith("restore-")


STAMP = "20260102T030405Z"
PREPARED = {"changed": True, "plan": {"app": "shop", "stamp": STAMP}}


class Host:
    """The action part of the module, with a host that is this one.

    Args:
        lock: the lock of the app.
        commands: a file for the commands that it runs on the host.
    """

    def __init__(self, lock: Lock, commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lock, self.commands = lock, commands
        monkeypatch.setattr(lock_renewal, "RENEWAL_INTERVAL", 0.1)
        monkeypatch.setattr(lock_renewal, "CHECK_INTERVAL", 0.05)
        monkeypatch.setattr(
            lock_renewal,
            "shell_command",
            lambda name, token, what: shell_command(name, token, what, lock.folder.parent),
        )
        monkeypatch.setattr(ActionBase, "run", lambda *_: {})

    def execute(self, command: str) -> dict[str, int]:
        with self.commands.open("a") as file:
            file.write(f"{command}\n")
        return {"rc": subprocess.run(["sh", "-c", command]).returncode}

    def take(self, result: dict[str, Any], **args: str) -> dict[str, Any]:
        """Take a step, of which the module returns a result."""
        plugin = action.ActionModule.__new__(action.ActionModule)
        values: dict[str, Any] = {
            "_task": SimpleNamespace(args={"name": "shop", **args}, check_mode=False),
            "_execute_module": lambda *_, **__: result,
            "_low_level_execute_command": self.execute,
        }
        for name, value in values.items():
            setattr(plugin, name, value)
        return plugin.run()

    def renewed(self, patience: float) -> bool:
        """Whether somebody renews a lock that is nearly stale."""
        grow_old(self.lock, STALE_AFTER + 1)
        deadline = time.monotonic() + patience
        while self.lock.is_stale and time.monotonic() < deadline:
            time.sleep(0.05)
        return not self.lock.is_stale


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    lock = Lock("shop", tmp_path / "locks")
    assert lock.take(f"restore-{STAMP}", {"by": "ann", "since": ""})
    return Host(lock, tmp_path / "commands", monkeypatch)


def test_the_lock_is_renewed_between_the_steps_while_the_run_waits_for_other_hosts(host: Host) -> None:
    assert host.take(PREPARED, step="prepare") == PREPARED
    try:
        assert host.renewed(30)
        assert host.renewed(30)
        assert host.lock.owner == {"by": "ann", "since": ""}
    finally:
        host.lock.free(f"restore-{STAMP}")
    calls = -1
    deadline = time.monotonic() + 30
    while calls != (calls := len(host.commands.read_text().splitlines())) and time.monotonic() < deadline:
        time.sleep(1)
    assert host.lock.token == ""  # the renewal has ended, and has not taken the lock again


@pytest.mark.parametrize(
    ("result", "args"),
    [
        ({"failed": True, "msg": "The target is down."}, {"step": "prepare"}),
        (PREPARED, {"step": "prepare", "as_name": "shop-copy"}),  # a copy is complete, and its lock is free
        (PREPARED, {"step": "stop", "stamp": STAMP}),  # the renewal that prepare has begun goes on
        ({"changed": True, "plan": {"app": "shop", "stamp": ""}}, {"step": "prepare"}),  # in check mode
    ],
)
def test_only_a_prepared_restore_begins_to_renew(result: dict[str, Any], args: dict[str, str], host: Host) -> None:
    assert host.take(result, **args) == result
    assert not host.renewed(0.5)
    assert not host.commands.exists()


def test_the_lock_of_a_run_that_has_died_becomes_stale(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "0.5"]) as run:
        monkeypatch.setattr(lock_renewal, "run_process", lambda: run.pid)
        host.take(PREPARED, step="prepare")
        run.wait()
    time.sleep(1)  # a renewal that has begun may end
    assert not host.renewed(1)
    assert host.lock.token == f"restore-{STAMP}"
    assert os.path.exists(host.lock.folder)
