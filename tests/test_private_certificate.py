"""The certificates that an authority of the host itself signs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.modules import private_certificate
from ansible_collections.blueoctopus.site.plugins.modules.private_certificate import Certificates, openssl

OLD, NEW = "old.example", "new.example"


def create(folder: Path, *names: str) -> Certificates:
    """Create a certificate if it is necessary."""
    found = Certificates(folder, list(names))
    if not found.is_valid:
        found.create()
    assert found.is_valid
    return found


def verify(certificates: Certificates, name: str) -> None:
    """Verify the certificate as a client that requests this name.

    Raises:
        CertificateError: when the client does not accept it.
    """
    openssl("verify", "-x509_strict", "-verify_hostname", name, "-CAfile", certificates.ca, certificates.certificate)


def test_a_certificate_is_for_all_names(tmp_path: Path) -> None:
    long = f"{'a' * 60}.{'b' * 60}.example"
    found = create(tmp_path, long, "*.Shop.example", "2001:db8::7")
    for name in (long, "www.shop.example"):
        verify(found, name)
    with pytest.raises(private_certificate.CertificateError):
        verify(found, "shop.example")
    assert "CA:FALSE" in openssl("x509", "-noout", "-ext", "basicConstraints", "-in", found.certificate)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "ca.key": 0o600, "ca.pem": 0o644, "server.key": 0o600, "server.pem": 0o644,
    }  # fmt: skip


def test_other_names_give_a_new_certificate_of_the_same_authority(tmp_path: Path) -> None:
    root = create(tmp_path, OLD).ca.read_text()
    found = create(tmp_path, NEW)
    assert found.ca.read_text() == root
    verify(found, NEW)
    with pytest.raises(private_certificate.CertificateError):
        verify(found, OLD)


def test_a_certificate_that_expires_soon_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_certificate, "SERVER_DAYS", 364)
    found = Certificates(tmp_path, [OLD])
    found.create()
    assert not found.is_valid
    monkeypatch.undo()
    create(tmp_path, OLD)


def test_runs_at_the_same_time_create_one_certificate(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(Certificates(tmp_path, [NEW]).create) for _ in range(4)]:
            done.result()
    assert Certificates(tmp_path, [NEW]).is_valid
    assert len(list(tmp_path.iterdir())) == 4
