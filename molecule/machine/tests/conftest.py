"""Fixtures for machines as a provider hands them out: who gets in changes on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import testinfra
from testinfra.host import Host
from testing import Door, Machine, Web


@pytest.fixture
def door(host: Host) -> Door:
    """How to get in to the machine of this test."""
    return Door(host.ansible.get_variables())


@pytest.fixture
def machine(host: Host, door: Door) -> Machine:
    """The machine of this test, reached the way that it is reached in the end."""
    variables = host.ansible.get_variables()
    options = " ".join([*door.options, "-i", door.key])
    reached = testinfra.get_host(f"ssh://{door.user}@{door.address}:{door.port}", ssh_extra_args=options)
    return Machine(variables["inventory_hostname"], reached, variables, Web(door.address, 80))


@pytest.fixture
def neighbour(inventory: Path) -> Callable[[str], Door]:
    """The door of another machine of the scenario."""

    def door_of(name: str) -> Door:
        runner = testinfra.get_host(f"ansible://{name}?ansible_inventory={inventory}")
        return Door(runner.ansible.get_variables())

    return door_of
