"""The instance of Redis of an app: when it is restarted, and what stays of it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import app_redis
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import AccountError, Releases
from ansible_collections.blueoctopus.site.plugins.modules import redis_instance
from modules import Programs, call

CHANGES = ("systemctl enable", "systemctl restart", "systemctl disable")


@pytest.fixture(autouse=True)
def host(programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host where every started unit runs since a minute from now."""
    monkeypatch.setattr(app_redis, "UNITS", tmp_path / "units")
    monkeypatch.setattr(app_redis, "CONFIG", tmp_path / "config")
    monkeypatch.setattr(Releases, "prepare", lambda _store: None)  # creates the account
    programs.prints("systemctl is-active", "active")
    programs.prints("systemctl is-enabled", "enabled")
    programs.prints("systemctl show", f"@{time.time() + 60:.0f}")


def present(check: bool = False, config: str = "maxmemory 64mb\n") -> dict[str, Any]:
    return call(redis_instance, check, name="shop", unit="[Service]\n", config=config)


def test_an_instance_is_started_once(programs: Programs, tmp_path: Path) -> None:
    result = present()
    assert (result["changed"], result["service"]) == (True, "app-redis-shop.service")
    assert (tmp_path / "units/app-redis-shop.service").read_text() == "[Service]\n"
    assert (tmp_path / "config/shop.conf").read_text() == "maxmemory 64mb\n"
    assert programs.calls(*CHANGES) == [
        "systemctl enable --quiet app-redis-shop.service",
        "systemctl restart app-redis-shop.service",
    ]
    assert not present()["changed"]
    assert programs.calls(*CHANGES) == []


def test_a_changed_configuration_restarts_it_and_is_in_the_diff(programs: Programs) -> None:
    present()
    programs.calls()
    (difference,) = present(config="maxmemory 128mb\n")["diff"]
    assert (difference["before"], difference["after"]) == ("maxmemory 64mb\n", "maxmemory 128mb\n")
    assert "systemctl restart app-redis-shop.service" in programs.calls(*CHANGES)


@pytest.mark.parametrize(("command", "state"), [("is-active", "failed"), ("is-enabled", "disabled")])
def test_an_instance_that_does_not_run_is_started(programs: Programs, command: str, state: str) -> None:
    present()
    programs.prints(f"systemctl {command}", state)
    assert present()["changed"]


def test_an_instance_that_started_before_its_files_changed_is_restarted(tmp_path: Path) -> None:
    present()
    os.utime(tmp_path / "config/shop.conf", (time.time() + 120,) * 2)  # an interrupted run wrote it
    assert present()["changed"]


def test_an_instance_that_does_not_start_is_an_error_with_its_log(programs: Programs) -> None:
    programs.fails("systemctl restart")
    programs.prints("journalctl --unit", "Can't open the append-only file: Permission denied")
    result = present()
    assert result["failed"]
    assert result["msg"].splitlines() == [
        "shop: its instance of Redis does not start.",
        "Can't open the append-only file: Permission denied",
    ]


def test_a_name_that_belongs_to_another_account_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_store: Releases) -> None:
        raise AccountError("the user shop already exists")

    monkeypatch.setattr(Releases, "prepare", refuse)
    assert present()["msg"] == "shop: the user shop already exists. Choose another name for the app."
    assert list((tmp_path / "units").iterdir()) == []


def test_check_mode_starts_nothing(programs: Programs, tmp_path: Path) -> None:
    assert present(check=True)["changed"]
    assert list((tmp_path / "units").iterdir()) == []
    assert programs.calls(*CHANGES) == []


def test_a_removed_instance_is_stopped_for_good(programs: Programs, tmp_path: Path) -> None:
    present()
    programs.calls()
    assert call(redis_instance, name="shop", state="absent")["changed"]
    assert programs.calls(*CHANGES) == ["systemctl disable --now --quiet app-redis-shop.service"]
    assert list((tmp_path / "units").iterdir()) == list((tmp_path / "config").iterdir()) == []
    assert not call(redis_instance, name="shop", state="absent")["changed"]
