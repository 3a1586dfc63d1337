"""Fixtures for HTTPS: the certificate authority of the scenario, and the apps over HTTP and HTTPS."""

from __future__ import annotations

import json
import socket
import ssl
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml
from cryptography import x509
from testing import Machine, Web


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that restart the certificate authority last, as it creates a new root at each start."""
    items.sort(key=lambda item: "pebble" in getattr(item, "fixturenames", ()))


class Authority:
    """The certificate authority of the scenario: its address and its root certificate."""

    def __init__(self, inventory: Path) -> None:
        self.address = str(yaml.safe_load((inventory / "host_vars/ca/address.yml").read_text())["ansible_host"])
        self.root = self.look("roots/0")

    def look(self, path: str) -> str:
        """Request a path of the management interface."""
        unverified = ssl._create_unverified_context()
        with urllib.request.urlopen(f"https://{self.address}:15000/{path}", context=unverified) as answer:
            return str(answer.read().decode())

    def status(self, certificate: x509.Certificate) -> str:
        return str(json.loads(self.look(f"cert-status-by-serial/{certificate.serial_number:x}"))["Status"])


@pytest.fixture
def authority(inventory: Path) -> Authority:
    """The certificate authority."""
    return Authority(inventory)


@pytest.fixture
def root(authority: Authority, tmp_path: Path) -> Path:
    """A file with the root certificate of the certificate authority."""
    path = tmp_path / "root.pem"
    path.write_text(authority.root)
    return path


@pytest.fixture
def plain(machine: Machine) -> Web:
    """The first app of the machine, over HTTP."""
    return replace(machine.web, domain=f"{machine.name}.test")


@pytest.fixture
def site(plain: Web, root: Path) -> Web:
    """The first app of the machine, over HTTPS."""
    return replace(plain, port=443, tls=ssl.create_default_context(cafile=root))


@pytest.fixture
def echo(site: Web) -> Web:
    """The second app of the machine, over HTTPS."""
    return replace(site, domain=f"echo.{site.domain}")


@pytest.fixture
def certificate_of(machine: Machine) -> Callable[[str], x509.Certificate]:
    """Read the certificate of a host name without verifying it."""

    def read(domain: str) -> x509.Certificate:
        context = ssl._create_unverified_context()
        with (
            socket.create_connection((machine.web.address, 443), 10) as plain,
            context.wrap_socket(plain, server_hostname=domain) as tls,
        ):
            return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")

    return read


@pytest.fixture
def ca(inventory: Path) -> Any:
    """The testinfra host of the certificate authority."""
    return testinfra.get_host("ansible://ca", ansible_inventory=str(inventory))
