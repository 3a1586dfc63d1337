"""Fixtures for the cluster: the source of the app, and what the tables of its database contain."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from behind_balancers import Machines, clients, machines, shared, site
from deploying import at_task, deploy
from testing import PROJECT

__all__ = ["at_task", "clients", "deploy", "machines", "shared", "site"]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A copy of the app's source, which a test can change."""
    source = PROJECT / "molecule/cluster/app"
    return Path(shutil.copytree(source, tmp_path / "shop", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture
def rows(machines: Machines) -> Callable[[str], list[str]]:
    """The result of a query in the database that all webservers use, one string for each row."""

    def read(query: str) -> list[str]:
        for name in ("db1", "db2"):
            with machines[name].host.sudo():
                shown = machines[name].host.run(
                    f"cd / && runuser -u postgres -- psql -Atd shop -c 'select pg_is_in_recovery()' -c \"{query}\""
                )
            state, _, result = shown.stdout.partition("\n")
            if state == "f":
                return str(result).splitlines()
        raise AssertionError("no database host is a primary")

    return read
