"""Logs that are shipped: settings that can't work."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.blueoctopus.site.plugins.plugin_utils.databases import Hostvars
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import plain, setting
from ansible_collections.blueoctopus.site.plugins.plugin_utils.validation import Problem

MOST_PORT = 65535


def find_log_problems(hosts: Iterable[str], hostvars: Hostvars) -> Iterator[tuple[str, Problem]]:
    """Find settings of shipped logs that can't work, one by one: the host of each problem, and the problem.

    Args:
        hosts: the hosts of this run.
        hostvars: the variables of all hosts.
    """
    for host in hosts:
        given = plain(hostvars[host].get("logs_ship")) or {}
        ship, key = plain(setting(hostvars[host], "logs_ship")), str(plain(setting(hostvars[host], "logs_key")))
        for problem in (*find_receiver_problems(given, ship), *find_certificate_problems(ship, key)):
            yield host, problem


def find_receiver_problems(given: Mapping[str, Any], ship: Mapping[str, Any]) -> Iterator[Problem]:
    """Check the receiver: its host, its port, and the name that its certificate must have."""
    example = "logs_ship: {to: 'logs.example.org:6514'}"
    if given and not ship["to"]:
        yield Problem("key logs_ship.to", "nothing", "the receiver, as HOST or HOST:PORT", example)
        return
    address, _, port = ship["to"].partition("]") if ship["to"].startswith("[") else ship["to"].partition(":")
    if port.lstrip(":") and not 1 <= int(port.lstrip(":")) <= MOST_PORT:
        yield Problem("key logs_ship.to", f"the port {port.lstrip(':')}", f"a port from 1 to {MOST_PORT}", example)
    try:
        ipaddress.ip_address(address.lstrip("["))
    except ValueError:
        return
    if not ship["name"]:
        found = f"nothing, and the receiver is the address {address.lstrip('[')}"
        expected = "the host name in the certificate of the receiver: rsyslog does not compare addresses"
        yield Problem("key logs_ship.name", found, expected, f"{example[:-1]}, name: logs.example.org}}")


def find_certificate_problems(ship: Mapping[str, Any], key: str) -> Iterator[Problem]:
    """Check the certificates of the authorities, and that the certificate of the host has its key."""
    # Imported here, as ansible-test imports this file where it is not installed.
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    parsed = {}
    for name in ("ca", "certificate"):
        try:
            parsed[name] = x509.load_pem_x509_certificates(ship[name].encode()) if ship[name] else []
        except ValueError:
            expected, example = (
                "certificates in PEM form",
                f"logs_ship: {{{name}: \"{{{{ lookup('file', '{name}.pem') }}}}\"}}",
            )
            yield Problem(f"key logs_ship.{name}", "a text that is not a certificate", expected, example)
    example = 'logs_key: "{{ vault_logs_key }}"'
    if not key and not ship["certificate"]:
        return
    if not key:
        yield Problem("key logs_key", "nothing", "the key of the certificate in logs_ship", example)
    elif not ship["certificate"]:
        expected = "the certificate that belongs to logs_key; or no logs_key"
        example = "logs_ship: {certificate: \"{{ lookup('file', 'web1.pem') }}\"}"
        yield Problem("key logs_ship.certificate", "nothing", expected, example)
    elif parsed.get("certificate"):
        try:
            own = serialization.load_pem_private_key(key.encode(), None).public_key()
            matches = own == parsed["certificate"][0].public_key()
        except (ValueError, TypeError):
            matches = False
        if not matches:
            expected = "the key of the certificate in logs_ship, not encrypted"
            yield Problem("key logs_key", "a key that does not match the certificate", expected, example)
