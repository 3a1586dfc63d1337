"""A disk that is full at any step of a deploy: a clear error, the previous release, nothing left over, and a rerun."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import release_module, release_undo
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import Instance, installed_units
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import Lock
from ansible_collections.blueoctopus.site.plugins.modules import (
    release_confirm,
    release_drain,
    release_lock,
    release_start,
    release_switch,
)
from ansible_collections.blueoctopus.site.plugins.modules import release_undo as undo
from modules import Programs, Steps, call
from nginx_site import needs_nginx

pytestmark = [pytest.mark.slow, needs_nginx, pytest.mark.needs("root", "mount", "umount")]
FIRST = "20260101T000000Z-0000000001"
Fill = Callable[..., None]
PLENTY = {"pages": 16384, "inodes": 16384}


@pytest.fixture(autouse=True)
def fill(tmp_path: Path) -> Iterator[Fill]:
    """Give the file system of the test a number of free pages or inodes. All files of the host are in it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", tmp_path], check=True)

    def leave(**free: int) -> None:
        found = os.statvfs(tmp_path)
        left = PLENTY | free
        pages, inodes = found.f_blocks - found.f_bfree + left["pages"], found.f_files - found.f_ffree + left["inodes"]
        size = f"remount,size={pages * found.f_frsize},nr_inodes={inodes}"
        subprocess.run(["mount", "-o", size, tmp_path], check=True)

    yield leave
    subprocess.run(["umount", tmp_path], check=True)


def other_disk(folder: Path) -> Path:
    """A folder beside that of the test, which is never full."""
    return folder.with_name(f"{folder.name}-other")


@pytest.fixture
def host(steps: Steps, programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Steps:
    """A host with a live release. Its apps are always well; locks and the log of the programs are on another disk."""
    other = other_disk(tmp_path)
    other.mkdir()
    (tmp_path / "bin/log").symlink_to(other / "log")
    programs.add("systemd-run")
    programs.prints("systemctl is-active", "active")
    for module in (release_module, release_lock):
        monkeypatch.setattr(module, "Lock", functools.partial(Lock, folder=other))
    monkeypatch.setattr(release_undo, "GUARDS", tmp_path / "guards")
    monkeypatch.setattr(Instance, "wait_until_healthy", lambda _self: None)
    monkeypatch.setattr(Instance, "check_nginx", lambda _self: "")
    monkeypatch.setattr(Instance, "is_settled", property(lambda self: self.release in installed_units("shop")))
    assert deploy(steps, FIRST) == ""
    return steps


def lock_of(host: Steps) -> Lock:
    """The lock of the app."""
    return Lock(host.store.name, other_disk(host.units.parent))


def deploy(host: Steps, release: str) -> str:
    """Take the steps of a deploy, as the role app does; return the error of the first one that fails."""
    store, before = host.store, host.store.live
    locked = call(release_lock, name=store.name, root=str(store.root), by="me")
    if locked.get("failed"):
        return str(locked["msg"])
    host.token, error = locked["token"], ""
    try:
        host.build(release, "shop.worker@.service")
    except OSError as failure:  # as the module release_build, which builds in a temporary folder
        shutil.rmtree(store.path(release), ignore_errors=True)
        error = str(failure)
    for module in (release_start, release_switch, release_confirm):
        if not error:
            error = host.run(module, release).get("msg", "")
    if not error:
        host.run(release_drain, release, keep_releases=2)
    elif host.run(undo, release, former=before, own=before, reason=error).get("failed"):
        return error
    unlock(host)
    return error


def unlock(host: Steps) -> None:
    """Free the lock; then the guard of the run ends, and removes its files."""
    lock_of(host).free(host.token)
    release_undo.remove_guard(host.store.name, host.token)


def leftovers(folder: Path) -> list[str]:
    """Files that are neither of the live release nor of one that is kept."""
    return [str(path) for pattern in (".*", "guards/*", "release-restore-*") for path in folder.rglob(pattern)]


@pytest.mark.parametrize("resource", ["pages", "inodes"])
def test_a_deploy_that_fills_the_disk_changes_nothing_and_can_be_repeated(
    host: Steps, fill: Fill, tmp_path: Path, resource: str
) -> None:
    store, errors = host.store, []
    for free in (0, *range(12, 100)):  # most of the first pages are those of the guard's program
        before, new = store.live, f"20260201T{free:06}Z-{free:010x}"
        fill(**{resource: free})
        error = deploy(host, new)
        if not error:
            break
        errors.append(error)
        assert "No space left on device" in error
        fill()
        if host.token == lock_of(host).token:  # the guard repeats it until it succeeds
            assert release_undo.guard_files(store.name, host.token)[0].exists()
            release_undo.restore(store, store.confirmed, release_undo.INTERRUPTED)
            unlock(host)
        assert lock_of(host).token == ""
        assert (store.live, store.confirmed, set(installed_units("shop"))) == (before, before, {before})
        assert leftovers(tmp_path) == []
        assert deploy(host, new) == ""
        assert (store.live, store.confirmed) == (new, new)
    assert any("The disk of this host is full: free some space, and run this again." in error for error in errors)
