"""Fixtures for the balancers: the source of the app, and what the webservers have recorded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from behind_balancers import clients, machines, shared, site
from deploying import at_task, deploy
from testing import PROJECT, Machine

__all__ = ["at_task", "clients", "deploy", "machines", "shared", "site"]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A copy of the app's source, which a test can change."""
    source = PROJECT / "molecule/balancers/app"
    return Path(shutil.copytree(source, tmp_path / "shop", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture
def posts(machines: dict[str, Machine]) -> Callable[[], list[int]]:
    """The numbers of the POST requests that the webservers have recorded."""

    def recorded() -> list[int]:
        lines = []
        for name in ("web12", "web13"):
            with machines[name].host.sudo():
                lines += machines[name].host.run("cat /srv/shop/data/posts").stdout.split()
        return [int(line) for line in lines]

    return recorded
