"""Fixtures for webservers behind balancers: the site as clients see it, clients that count, the machines."""

from __future__ import annotations

import contextlib
import shutil
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import testinfra
import yaml
from clients import Clients
from testing import Machine, Web

OFF = 20  # seconds that a machine is switched off
Machines = dict[str, Machine]


@pytest.fixture
def shop(inventory: Path, tmp_path: Path) -> Path:
    """A copy of the source of the scenario's app, which a test can change."""
    source = inventory.parent / "app"
    return Path(shutil.copytree(source, tmp_path / "shop", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture
def machines(inventory: Path) -> Machines:
    """All machines of the scenario, by their names."""
    found = {}
    for group in yaml.safe_load((inventory / "hosts.yml").read_text()).values():
        for name in group["hosts"]:
            host = testinfra.get_host(f"ansible://{name}", ansible_inventory=str(inventory))
            variables = host.ansible.get_variables()
            found[name] = Machine(name, host, variables, Web(variables["ansible_host"], 80))
    return found


@pytest.fixture
def shared(machines: Machines) -> str:
    """The address that the balancers share."""
    return next(iter(machines.values())).web.address.rpartition(".")[0] + ".9"


@pytest.fixture
def site(shared: str) -> Web:
    """The app shop at the shared address, over HTTPS with a self-signed certificate."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    return Web(shared, 443, "site.example", trusting)


@pytest.fixture
def clients(site: Web) -> Callable[..., contextlib.AbstractContextManager[Clients]]:
    """Clients of the shop, as long as the context lasts; of another domain on request, which may redirect."""

    @contextlib.contextmanager
    def visit(domain: str = site.domain) -> Iterator[Clients]:
        seen = Clients(replace(site, domain=domain), redirects=domain != site.domain)
        threads = [threading.Thread(target=seen.run) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(1)
            yield seen
        finally:
            seen.ended.set()
            for thread in threads:
                thread.join()

    return visit


def holders(machines: Machines, shared: str) -> list[str]:
    """The balancers that have the shared address."""
    balancers = {name: machine for name, machine in machines.items() if name.startswith("lb")}
    shown = {name: machine.host.check_output("ip -brief address") for name, machine in balancers.items()}
    return [name for name, text in shown.items() if f" {shared}/" in text]


def switch_off(machine: Machine, seconds: int = OFF) -> float:
    """Cut a machine from the network for some seconds, as if it were switched off; returns when it is surely off."""
    cut = f"sleep 0.5; ip link set host0 down; sleep {seconds}; ip link set host0 up"
    with machine.host.sudo():
        machine.host.run_expect([0], f"systemd-run --collect sh -c '{cut}'")
    time.sleep(1)
    return time.monotonic()
