"""Fixtures for the balancers: what the webservers have recorded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from behind_balancers import clients, machines, shared, shop, site
from deploying import at_task, deploy
from testing import Machine

__all__ = ["at_task", "clients", "deploy", "machines", "shared", "shop", "site"]


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
