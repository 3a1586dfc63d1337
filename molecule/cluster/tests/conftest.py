"""Fixtures for the cluster: what the tables of the app's database contain."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from behind_balancers import Machines, clients, machines, shared, shop, site
from deploying import at_task, deploy

__all__ = ["at_task", "clients", "deploy", "machines", "shared", "shop", "site"]


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
