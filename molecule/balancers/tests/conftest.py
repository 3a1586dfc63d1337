"""Fixtures for the balancers: the site as clients see it, clients that count, the machines."""

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
from balancers.clients import Clients
from deploying import at_task, deploy
from testing import PROJECT, Machine, Web

__all__ = ["at_task", "deploy"]
NAMES = ("web12", "web13", "lb12", "lb13")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A copy of the app's source, which a test can change."""
    source = PROJECT / "molecule/balancers/app"
    return Path(shutil.copytree(source, tmp_path / "shop", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture
def machines(inventory: Path) -> dict[str, Machine]:
    """All machines, by their names."""
    found = {}
    for name in NAMES:
        host = testinfra.get_host(f"ansible://{name}", ansible_inventory=str(inventory))
        variables = host.ansible.get_variables()
        found[name] = Machine(name, host, variables, Web(variables["ansible_host"], 80))
    return found


@pytest.fixture
def shared(machines: dict[str, Machine]) -> str:
    """The address that the balancers share."""
    return machines["lb13"].web.address.rpartition(".")[0] + ".9"


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
