"""The check of a certificate that the inventory provides."""

from __future__ import annotations

import datetime
import ipaddress

import pytest
from ansible_collections.blueoctopus.site.plugins.plugin_utils.provided_certificate import find_certificate_errors
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DOMAINS = ["shop.example", "www.shop.example"]


def certify(names: list[str], days: int = 30) -> tuple[str, str]:
    """A certificate for some names, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    nobody = x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    begin, end = sorted([now - datetime.timedelta(days=1), now + datetime.timedelta(days=days)])
    builder = x509.CertificateBuilder(nobody, nobody, key.public_key(), x509.random_serial_number(), begin, end)
    if names:
        addresses = [x509.IPAddress(ipaddress.ip_address(name)) for name in names if name[0].isdigit()]
        hosts = [x509.DNSName(name) for name in names if not name[0].isdigit()]
        builder = builder.add_extension(x509.SubjectAlternativeName([*hosts, *addresses]), False)
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    return (
        builder.sign(key, hashes.SHA256()).public_bytes(pem).decode(),
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain).decode(),
    )


def errors(certificate: str, key: str) -> list[tuple[str, str]]:
    return [(name, found) for name, found, _expected in find_certificate_errors(certificate, key, DOMAINS)]


@pytest.mark.parametrize("names", [DOMAINS, ["shop.example", "*.shop.example"], [*DOMAINS, "192.0.2.7"]])
def test_a_matching_certificate_is_accepted(names: list[str]) -> None:
    assert errors(*certify(names)) == []


def test_a_text_that_is_no_certificate_is_refused() -> None:
    _certificate, key = certify(DOMAINS)
    for text in ("", "-----BEGIN CERTIFICATE-----\nAAAA"):
        assert errors(text, key) == [("tls_certificate", "a text that is not a certificate")]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["other.example"], "for other.example, not for shop.example, www.shop.example"),
        (["*.shop.example"], "for *.shop.example, not for shop.example"),
        (["192.0.2.7"], "for 192.0.2.7, not for shop.example, www.shop.example"),
        ([], "for no name, not for shop.example, www.shop.example"),
    ],
)
def test_a_certificate_for_other_names_is_refused(names: list[str], found: str) -> None:
    assert errors(*certify(names)) == [("tls_certificate", found)]


def test_an_expired_certificate_is_refused() -> None:
    ((name, found),) = errors(*certify(DOMAINS, days=-10))
    assert name == "tls_certificate"
    assert found.startswith("valid from ")


def test_the_key_of_another_certificate_is_refused() -> None:
    certificate, _key = certify(DOMAINS)
    for key in (certify(DOMAINS)[1], "-----BEGIN PRIVATE KEY-----\nAAAA", ""):
        assert errors(certificate, key) == [("tls_key", "a key that does not match tls_certificate")]


def test_no_error_shows_the_key() -> None:
    certificate, _key = certify(["other.example"])
    _certificate, key = certify(DOMAINS)
    assert key.splitlines()[1] not in str(list(find_certificate_errors(certificate, key, DOMAINS)))
