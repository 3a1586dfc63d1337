"""Check the certificate and the key of an app with `tls: provided`."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509

# The functions import cryptography themselves, as ansible-test imports this file where it is not installed.


def find_certificate_errors(certificate: str, key: str, domains: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Check that a certificate can be parsed, is valid now and for all domains, and matches its key.

    Args:
        certificate: the certificate, followed by those of its issuers, in PEM format.
        key: its private key, in PEM format.
        domains: the domains of the app.

    Yields:
        The key of the app with the error, what was found, and what was expected; "" for what the key always expects.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        parsed = x509.load_pem_x509_certificates(certificate.encode())[0]
    except ValueError:
        yield "tls_certificate", "a text that is not a certificate", "a certificate in PEM format"
        return
    begin, end = parsed.not_valid_before_utc, parsed.not_valid_after_utc
    if not begin <= datetime.datetime.now(datetime.UTC) <= end:
        found = f"valid from {begin:%Y-%m-%d} to {end:%Y-%m-%d}"
        yield "tls_certificate", found, "a certificate that is valid now"
    named = certificate_names(parsed)
    lacking = [domain for domain in domains if not {domain, f"*.{domain.partition('.')[2]}"} & set(named)]
    if lacking:
        found = f"for {', '.join(named) or 'no name'}, not for {', '.join(lacking)}"
        yield "tls_certificate", found, "a certificate for all domains of the app"
    try:
        matches = serialization.load_pem_private_key(key.encode(), None).public_key() == parsed.public_key()
    except (ValueError, TypeError):
        matches = False
    if not matches:
        yield "tls_key", "a key that does not match tls_certificate", ""


def certificate_names(certificate: x509.Certificate) -> list[str]:
    """The host names and IP addresses of a certificate."""
    from cryptography import x509

    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [
        *alternatives.get_values_for_type(x509.DNSName),
        *map(str, alternatives.get_values_for_type(x509.IPAddress)),
    ]
