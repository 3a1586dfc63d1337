"""Fixtures for the tests of monitoring: the monitor, and a receiver of its alerts."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import testinfra
from monitoring.monitor import Monitor
from receiving import start_receiver
from testing import Machine, Web


@pytest.fixture(scope="session")
def monitor(pytestconfig: pytest.Config) -> Iterator[Monitor]:
    """The monitor, with a receiver."""
    inventory = Path(pytestconfig.option.ansible_inventory).resolve()
    host = testinfra.get_host("ansible://monitor13", ansible_inventory=str(inventory))
    with host.sudo():
        start_receiver(host)
        yield Monitor(host)


@pytest.fixture
def shown(machine: Machine) -> Web:
    """The app echo of the machine. Its certificate is self-signed."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    return Web(machine.web.address, 443, "echo.test", trusting)


@pytest.fixture
def root(machine: Machine) -> Callable[[str], str]:
    """Run a command on the machine as root; it must succeed."""

    def run(command: str) -> str:
        with machine.host.sudo():
            return str(machine.host.run_expect([0], command).stdout)

    return run
