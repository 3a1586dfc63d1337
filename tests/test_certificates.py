"""When the program on the hosts takes a certificate for old, and where it looks."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parent.parent / "roles/certificate/files/certificates"
DAY = 86400
SETTINGS = {
    "domains": ["shop.example", "www.shop.example"],
    "method": "selfsigned",
    "directory": "https://ca.example/dir",
}
Make = Callable[..., Any]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, with folders of its own."""
    loader = importlib.machinery.SourceFileLoader("certificates", str(PROGRAM))
    spec = importlib.util.spec_from_loader("certificates", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    for name, path in {"SETTINGS": "etc", "STATE": "state", "CHALLENGES": "challenges"}.items():
        (tmp_path / path).mkdir()
        monkeypatch.setattr(module, name, tmp_path / path)
    monkeypatch.setattr(module, "CHANGED", tmp_path / "state/changed")
    return module


@pytest.fixture
def make(program: ModuleType) -> Make:
    """Make the certificate of a site with some settings."""

    def made(**settings: Any) -> Any:
        (program.SETTINGS / "shop.json").write_text(json.dumps(SETTINGS | settings))
        return program.Certificate("shop")

    return made


def test_a_site_without_a_certificate_needs_one(make: Make) -> None:
    assert make().is_due()


def test_a_placeholder_is_no_certificate(program: ModuleType, make: Make) -> None:
    certificate = make()
    certificate.take_over(*program.self_signed(["shop.example"], 30), real=False)
    assert certificate.is_due()
    assert not certificate.show()["real"]


@pytest.mark.parametrize(
    ("life", "age", "due"),
    [(90, 59, False), (90, 61, True), (45, 29, False), (45, 31, True), (6, 2.9, False), (6, 3.1, True)],
)
def test_a_certificate_is_old_after_two_thirds_of_its_life_or_half_of_a_short_one(
    make: Make, life: float, age: float, due: bool
) -> None:
    certificate = make()
    certificate.obtain()
    begun = time.time() - age * DAY
    certificate.remember(not_before=begun, not_after=begun + life * DAY)
    assert make().is_due() is due


@pytest.mark.parametrize(
    "changed", [{"domains": ["shop.example"]}, {"method": "acme"}, {"directory": "https://other.example/dir"}]
)
def test_another_wish_needs_another_certificate(make: Make, changed: dict[str, Any]) -> None:
    make().obtain()
    assert not make().is_due()
    assert make(**changed).is_due()


def test_a_new_certificate_takes_the_place_of_the_old_in_one_step(program: ModuleType, make: Make) -> None:
    seen = []
    for _ in range(5):
        certificate = make()
        certificate.obtain()
        seen.append(os.readlink(certificate.current))
    assert len(set(seen)) == 5
    kept = sorted(path.name for path in (program.STATE / "shop").iterdir() if path.name.isdigit())
    assert kept == seen[-3:]
    assert (program.STATE / "shop/current/privkey.pem").stat().st_mode & 0o777 == 0o600
    assert program.CHANGED.exists()


def test_pruning_never_removes_the_current_certificate_when_the_clock_was_set_back(
    program: ModuleType, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([5000, 6000, 7000, 1000, 2000, 500])
    monkeypatch.setattr(program.time, "time_ns", lambda: next(times))
    for expected in ("5000", "6000", "7000", "1000", "2000", "500"):
        certificate = make()
        certificate.take_over(*program.self_signed(["shop.example"], 30))
        assert os.readlink(certificate.current) == expected
        assert (certificate.current / "fullchain.pem").exists()
        assert (certificate.current / "privkey.pem").exists()
        kept = [path.name for path in certificate.folder.iterdir() if path.name.isdigit()]
        assert len(kept) <= program.KEPT


def test_a_failure_is_remembered_and_leaves_the_certificate(program: ModuleType, make: Make) -> None:
    make().obtain()
    before = os.readlink(make().current)
    certificate = make(method="acme", challenge="http", check_names=True, domains=["nowhere.invalid"])
    assert program.keep(certificate, "renew") is False
    assert os.readlink(certificate.current) == before
    assert "nowhere.invalid has no address in DNS" in make().state["error"]
    assert list(program.CHALLENGES.iterdir()) == []


def test_a_certificate_names_hosts_and_addresses(program: ModuleType) -> None:
    assert (
        program.subject_names(["a.example", "192.0.2.7", "*.b.example"]) == "DNS:a.example,IP:192.0.2.7,DNS:*.b.example"
    )


def test_only_what_nginx_serves_is_renewed(program: ModuleType, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "SITES", program.STATE)
    make()
    assert not program.is_served("shop")
    (program.STATE / "shop.conf").write_text("server { listen 80; }")
    assert not program.is_served("shop")
    (program.STATE / "shop.conf").write_text(f"ssl_certificate {program.STATE}/shop/current/fullchain.pem;")
    assert program.is_served("shop")


def test_a_key_that_does_not_fit_never_becomes_current(program: ModuleType, make: Make) -> None:
    make().obtain()
    before = os.readlink(make().current)
    chain, _key = program.self_signed(["shop.example"], 30)
    with pytest.raises(program.CertificateError, match="OpenSSL does not take the certificate"):
        make().take_over(chain, program.new_key())
    assert os.readlink(make().current) == before


def test_a_provided_certificate_is_never_due_by_itself(program: ModuleType, make: Make) -> None:
    certificate = make(method="provided")
    certificate.take_over(*program.self_signed(["shop.example"], 30))
    certificate.remember(not_before=0, not_after=1)
    assert not make(method="provided").is_due()


def test_one_failure_of_any_kind_holds_up_no_other(
    program: ModuleType, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make()
    monkeypatch.setattr(program, "self_signed", lambda *_: 1 / 0)
    assert program.keep(certificate, "renew") is False
    assert make().state["error"] == "division by zero"


# --- revocation -----------------------------------------------------------------------------------------------------


class FakeCa:
    """A CA that fails as long as it is told to, and notes what it has issued and revoked."""

    def __init__(self, program: ModuleType) -> None:
        self.program = program
        self.issues = self.revokes = True
        self.issued: list[str] = []
        self.revoked: list[str] = []

    def __call__(self, settings: dict[str, Any]) -> FakeCa:
        self.settings = settings
        return self

    def issue(self) -> tuple[str, str]:
        if not self.issues:
            raise self.program.CertificateError("the CA is down")
        chain, key = self.program.self_signed(self.settings["domains"], 30)
        self.issued.append(chain)
        return str(chain), str(key)

    def revoke(self, chain: str) -> None:
        if not self.revokes:
            raise self.program.CertificateError("the CA is down")
        self.revoked.append(chain)


@pytest.fixture
def ca(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> FakeCa:
    fake = FakeCa(program)
    monkeypatch.setattr(program, "Authority", fake)
    return fake


@pytest.fixture
def revoke(program: ModuleType, make: Make, ca: FakeCa) -> Callable[[], bool]:
    """Revoke the certificate of a site that has one from the CA; whether that went well."""

    def site() -> Any:
        return make(method="acme", challenge="dns", check_names=False)

    assert program.keep(site(), "renew")
    assert len(ca.issued) == 1
    return lambda: bool(program.keep(site(), "revoke"))


def served(program: ModuleType) -> str:
    return str((program.STATE / "shop/current/fullchain.pem").read_text())


def test_revoking_replaces_the_certificate_and_revokes_the_former(
    program: ModuleType, ca: FakeCa, revoke: Callable[[], bool]
) -> None:
    assert revoke()
    first, second = ca.issued
    assert ca.revoked == [first]
    assert served(program) == second


def test_what_is_served_is_not_revoked_while_no_new_one_can_be_had(
    program: ModuleType, ca: FakeCa, revoke: Callable[[], bool]
) -> None:
    ca.issues = False
    for _ in range(3):
        assert not revoke()
        assert ca.revoked == []
        assert served(program) == ca.issued[0]
    ca.issues = True
    assert revoke()
    first, second = ca.issued
    assert ca.revoked == [first]
    assert served(program) == second


def test_a_revocation_that_failed_is_made_up_for_without_another_certificate(
    program: ModuleType, ca: FakeCa, revoke: Callable[[], bool]
) -> None:
    ca.revokes = False
    assert not revoke()
    first, second = ca.issued
    assert (ca.revoked, served(program)) == ([], second)
    ca.revokes = True
    assert revoke()
    assert ca.revoked == [first]
    assert ca.issued == [first, second]


def test_after_a_revocation_the_next_one_revokes_the_next_certificate(ca: FakeCa, revoke: Callable[[], bool]) -> None:
    assert revoke()
    assert revoke()
    assert ca.revoked == ca.issued[:2]
    assert len(ca.issued) == 3
