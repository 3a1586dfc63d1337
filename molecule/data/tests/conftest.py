"""Fixtures for the databases: the guestbook of each webserver, and the machines as administrators see them."""

from __future__ import annotations

import ssl
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import testinfra
from data.guestbook import NAMES, Guestbook
from testinfra.host import Host
from testing import Machine, Web


@pytest.fixture
def guestbook(machine: Machine) -> Guestbook:
    """The guestbook of the machine. Its certificate is self-signed."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    return Guestbook(NAMES[machine.name][0], Web(machine.web.address, 443, "guestbook.test", trusting), machine)


@pytest.fixture
def at(inventory: Path) -> Callable[[str], Host]:
    """A machine by its name; the commands of its tests need sudo."""
    return lambda name: testinfra.get_host(f"ansible://{name}", ansible_inventory=str(inventory))


@pytest.fixture
def picture() -> bytes:
    """A PNG file of 640 x 480 grey pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 640, 480, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes([128]) * 640 for _ in range(480)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture
def local(machine: Machine) -> Machine:
    """The webserver that has its databases itself."""
    if machine.name != "web13":
        pytest.skip("for the webserver with databases of its own")
    return machine


@pytest.fixture
def remote(machine: Machine) -> Machine:
    """The webserver that uses the database host."""
    if machine.name != "web12":
        pytest.skip("for the webserver that uses the database host")
    return machine
