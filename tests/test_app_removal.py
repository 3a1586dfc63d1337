"""The module that stops and removes apps: which ones it chooses, and the lock. The steps are in test_removal.py."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import instances, release_undo
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import Lock
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases
from ansible_collections.blueoctopus.site.plugins.modules import app_removal
from modules import Programs, call

Removed = list[tuple[str, str, bool]]


@pytest.fixture
def removed(programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Removed:
    """A host with the apps blog and shop; what becomes of each app."""
    del programs
    done: Removed = []

    class Removal:
        """The removal of an app that runs."""

        def __init__(self, store: Releases) -> None:
            self.store, self.runs = store, True

        def stop(self, _by: str) -> None:
            done.append((self.store.name, "stopped", False))

        def remove(self, data: bool) -> None:
            done.append((self.store.name, "removed", data))

        def check(self, data: bool) -> None:
            del data
            if self.store.name == "blog":
                raise OSError("/srv/blog/data is a mount point")

    monkeypatch.setattr(app_removal, "Removal", Removal)
    monkeypatch.setattr(app_removal, "Lock", functools.partial(Lock, folder=tmp_path / "locks"))
    monkeypatch.setattr(app_removal, "installed_apps", lambda: ["blog", "shop"])
    monkeypatch.setattr(release_undo, "GUARDS", tmp_path / "guards")
    return done


def test_apps_that_are_not_in_the_inventory_are_stopped(removed: Removed) -> None:
    result = call(app_removal, others_than=["shop", "new"])
    assert removed == [("blog", "stopped", False)]
    assert (result["changed"], result["apps"], result["installed"]) == (True, ["blog"], ["blog", "shop"])


def test_a_removed_app_is_stopped_first_and_unknown_ones_are_ignored(removed: Removed) -> None:
    assert call(app_removal, names=["shop", "unknown"], state="removed", data=True)["apps"] == ["shop"]
    assert removed == [("shop", "stopped", False), ("shop", "removed", True)]


def test_data_that_cannot_be_removed_is_an_error_before_the_app_is_stopped(removed: Removed) -> None:
    result = call(app_removal, names=["blog"], state="removed", data=True)
    assert result["msg"] == "blog was not changed: /srv/blog/data is a mount point."
    assert removed == []


def test_the_lock_of_the_app_is_free_afterwards(removed: Removed, tmp_path: Path) -> None:
    call(app_removal, names=["shop"])
    assert removed
    assert Lock("shop", tmp_path / "locks").token == ""


@pytest.fixture
def killed(tmp_path: Path) -> list[Path]:
    """What guards that were killed have left: of the app, and last of another one."""
    lock = Lock("shop", tmp_path / "locks")
    lock.take("a", {"by": "me@here", "since": "2026-01-01 00:00:00 UTC"})
    lock.set_guard("a")
    lock.fail("a", OSError("nginx can't be reloaded"))
    found = []
    for name, token in (("shop", "a" * 32), ("shop", "b" * 32), ("shop-cccccccc", "d" * 32)):
        program, unit = release_undo.guard_files(name, token)
        for path in (program, unit, release_undo.unit_link(unit)):
            path.parent.mkdir(exist_ok=True)
            path.touch()
            found.append(path)
    return found


@pytest.mark.parametrize("state", ["stopped", "removed"])
def test_nothing_is_left_of_guards_that_were_killed(
    removed: Removed, killed: list[Path], tmp_path: Path, state: str
) -> None:
    assert killed[0].is_relative_to(tmp_path)
    assert killed[1].is_relative_to(instances.UNITS)
    assert not call(app_removal, names=["shop"], state=state).get("failed")
    assert removed
    assert {path.name for path in (tmp_path / "locks/shop").iterdir()} == {"mutex", "work"}
    assert [path for path in killed if path.exists()] == killed[-3:]


def test_a_removal_that_fails_leaves_the_host_to_its_guard(
    removed: Removed, killed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_removal: object, _by: str) -> None:
        raise OSError("nginx can't be reloaded")

    assert removed == []
    monkeypatch.setattr(vars(app_removal)["Removal"], "stop", stop)
    assert call(app_removal, names=["shop"])["failed"]
    lock = Lock("shop", tmp_path / "locks")
    assert (lock.guard, lock.is_stale) == ("a", True)
    assert all(path.exists() for path in killed)


def test_check_mode_names_the_apps_and_stops_none(removed: Removed) -> None:
    assert call(app_removal, check=True, others_than=[])["apps"] == ["blog", "shop"]
    assert removed == []
