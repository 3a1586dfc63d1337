"""The module that stops and removes apps: which ones it chooses, and the lock. The steps are in test_removal.py."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
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


def test_check_mode_names_the_apps_and_stops_none(removed: Removed) -> None:
    assert call(app_removal, check=True, others_than=[])["apps"] == ["blog", "shop"]
    assert removed == []
