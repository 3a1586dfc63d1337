"""Fixtures for machines like those of providers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import testinfra
from testing import Door


@pytest.fixture
def neighbour(inventory: Path) -> Callable[[str], Door]:
    """Get the login to another machine of the scenario."""

    def door_of(name: str) -> Door:
        runner = testinfra.get_host(f"ansible://{name}?ansible_inventory={inventory}")
        return Door(runner.ansible.get_variables())

    return door_of
