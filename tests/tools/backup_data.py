"""An app with data, and the program `backup` with a repository in a folder."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from backups import drill, main, plans, restoring, saving, settings, units
from backups.restoring import Restorer
from backups.saving import Saver
from backups.settings import App, Settings, Target

Make = Callable[..., Settings]


@pytest.fixture
def new_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Settings for an app `shop`, with a target in a folder."""
    apps = tmp_path / "srv"
    for module in (settings, saving, restoring, drill, main):
        monkeypatch.setattr(module, "APPS", apps)
    monkeypatch.setattr(units, "systemctl", lambda *_: "")
    monkeypatch.setattr(restoring, "account_of", lambda _: os_account())
    data = apps / "shop/data"
    (data / "uploads").mkdir(parents=True)
    (data / "uploads/a.txt").write_text("ahoy")
    (data / "uploads/link").symlink_to("a.txt")
    for folder in ("etc", "state", "state/drill", "state/shared"):
        (tmp_path / folder).mkdir()
    (tmp_path / "etc/password").write_text("squid-ink")

    def made(**values: Any) -> Settings:
        return replace(Settings("web1", (App("shop"),), (Target("disk", str(tmp_path / "repository")),)), **values)

    return made


def os_account() -> Any:
    import pwd

    return pwd.getpwuid(os.getuid())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "srv/shop/data"


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Any]:
    """The folders of the program."""
    return {"state": tmp_path / "state", "config": tmp_path / "etc"}


@pytest.fixture
def saver(new_settings: Make, folders: dict[str, Any]) -> Saver:
    return Saver(new_settings(), cache=None, **folders)


@pytest.fixture
def restorer(new_settings: Make, folders: dict[str, Any]) -> Restorer:
    return Restorer(new_settings(), **folders)


def database(path: Path, rows: int) -> sqlite3.Connection:
    """A database with a table of numbers, in WAL mode, still open."""
    opened = sqlite3.connect(path)
    opened.execute("PRAGMA journal_mode=WAL")
    opened.execute("CREATE TABLE numbers (value INTEGER)")
    opened.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in range(rows)])
    opened.commit()
    return opened


def count(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as opened:
        return int(opened.execute("SELECT count(*) FROM numbers").fetchone()[0])


def replaced(restorer: Restorer, name: str = "shop", **options: Any) -> plans.Plan:
    """Take all steps of a restore."""
    plan = restorer.prepare(name, replace=True, **options)
    for step in (restorer.stop, restorer.swap, restorer.start):
        step(plan)
    return plan
