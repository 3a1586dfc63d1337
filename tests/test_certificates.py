"""The program `certificates`: which certificates it replaces, and how."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

DAY = 86400
Make = Callable[..., Any]


def test_missing_certificate_is_due(make: Make) -> None:
    assert make().is_due()


def test_placeholder_is_due(program: ModuleType, make: Make) -> None:
    certificate = make()
    certificate.take_over(*program.self_signed(["shop.example"], 30), real=False)
    assert certificate.is_due()
    assert not certificate.show()["real"]


@pytest.mark.parametrize(("days_left", "due"), [(31, False), (29, True)])
def test_self_signed_certificate_is_due_when_a_third_of_its_lifetime_is_left(
    make: Make, days_left: float, due: bool
) -> None:
    certificate = make()
    certificate.obtain()
    certificate.remember(not_after=time.time() + days_left * DAY)
    assert make().is_due() is due


def test_status_contains_the_end_of_the_certificate(program: ModuleType, make: Make) -> None:
    make().obtain()
    assert make().show()["not_after"] == pytest.approx(time.time() + program.SELF_SIGNED_DAYS * DAY, abs=60)


@pytest.mark.parametrize(
    "changed", [{"domains": ["shop.example"]}, {"method": "acme"}, {"directory": "https://other.example/dir"}]
)
def test_certificate_is_due_after_a_change_of_its_settings(make: Make, changed: dict[str, Any]) -> None:
    make().obtain()
    assert not make().is_due()
    assert make(**changed).is_due()


def test_new_certificate_replaces_the_previous_one_and_old_ones_are_pruned(program: ModuleType, make: Make) -> None:
    seen = []
    for _ in range(5):
        certificate = make()
        certificate.obtain(force=True)
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


def test_certificates_of_all_sites_with_settings_are_renewed(
    program: ModuleType, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["certificates", "renew:all"])
    make()
    (program.SETTINGS / "blog.json").write_text((program.SETTINGS / "shop.json").read_text())
    (program.SETTINGS / "certbot.ini").write_text("")
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 0
    assert sorted(path.parent.parent.name for path in program.STATE.glob("*/current/real")) == ["blog", "shop"]


def test_certificate_with_a_wrong_key_is_refused(program: ModuleType, make: Make) -> None:
    make().obtain()
    before = os.readlink(make().current)
    chain, _key = program.self_signed(["shop.example"], 30)
    with pytest.raises(program.CertificateError, match="OpenSSL does not accept the certificate"):
        make().take_over(chain, program.self_signed(["shop.example"], 30)[1])
    assert os.readlink(make().current) == before


def test_haproxy_gets_each_certificate_with_its_key_in_one_file(program: ModuleType, make: Make) -> None:
    program.COMBINED.mkdir()
    make().obtain()
    current = make().current
    combined = program.COMBINED / "shop.pem"
    assert combined.read_text() == (current / "fullchain.pem").read_text() + (current / "privkey.pem").read_text()
    assert combined.stat().st_mode & 0o777 == 0o600


def test_haproxy_gets_no_placeholder(program: ModuleType, make: Make) -> None:
    program.COMBINED.mkdir()
    make().take_over(*program.self_signed(["shop.example"], 30), real=False)
    assert list(program.COMBINED.iterdir()) == []


def test_provided_certificate_is_never_due(program: ModuleType, make: Make) -> None:
    certificate = make(method="provided")
    certificate.take_over(*program.self_signed(["shop.example"], 30))
    certificate.remember(not_before=0, not_after=1)
    assert not make(method="provided").is_due()


def test_unexpected_error_is_recorded_and_does_not_stop_the_program(
    program: ModuleType, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make()
    monkeypatch.setattr(program, "self_signed", lambda *_: 1 / 0)
    assert program.keep(certificate, "renew") is False
    assert make().state["error"] == "division by zero"


# --- a certificate that another host obtains --------------------------------------------------------------------------


@pytest.fixture
def copy(program: ModuleType, make: Make, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Install the certificate of another host, for some domains and days; return the certificate on this host."""

    def copied(domains: list[str] | None = None, days: int = 90) -> Any:
        chain, key = program.self_signed(domains or ["shop.example", "www.shop.example"], days)
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"certificate": chain, "key": key})))
        program.install(make(method="acme", issued_by="lb1"))
        return make(method="acme", issued_by="lb1")

    return copied


@pytest.mark.parametrize(("days_left", "due"), [(16, False), (14, True)])
def test_certificate_of_another_host_is_renewed_here_only_when_a_sixth_of_its_lifetime_is_left(
    program: ModuleType, copy: Make, monkeypatch: pytest.MonkeyPatch, days_left: int, due: bool
) -> None:
    obtained: list[bool] = []

    def ask_certbot(_self: Any, force: bool) -> Any:
        obtained.append(force)
        return program.self_signed(["shop.example"], 90)

    monkeypatch.setattr(program.Certificate, "ask_certbot", ask_certbot)
    certificate = copy()
    later = time.time() + (90 - days_left) * DAY
    monkeypatch.setattr(program.time, "time", lambda: later)
    assert certificate.is_due() is due
    certificate.obtain()
    assert obtained == [True] * due


def test_certificate_of_another_host_replaces_the_current_one_unless_it_should_have_been_renewed(
    program: ModuleType, copy: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [os.readlink(copy(days=days).current) for days in (90, 60, 900)]
    assert len(set(seen)) == 3
    later = time.time() + 80 * DAY
    monkeypatch.setattr(program.time, "time", lambda: later)
    assert os.readlink(copy(days=90).current) == seen[-1]
    assert os.readlink(copy(days=100).current) != seen[-1]


@pytest.fixture
def lineage(program: ModuleType, make: Make) -> Callable[[int], str]:
    """Let certbot have a certificate for some days; returns it."""

    def written(days: int) -> str:
        chain, key = program.self_signed(["shop.example", "www.shop.example"], days)
        conf, live, _archive = make().lineage
        for folder in (conf.parent, live):
            folder.mkdir(parents=True, exist_ok=True)
        conf.write_text("certbot")
        (live / "fullchain.pem").write_text(chain)
        (live / "privkey.pem").write_text(key)
        return str(chain)

    return written


@pytest.fixture
def revoked(program: ModuleType, lineage: Callable[[int], str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The certificates that certbot is told to revoke; it also issues new ones."""
    found: list[str] = []

    def certbot(_settings: dict[str, Any], command: str, *options: Any) -> None:
        if command == "revoke":
            found.append(options[1].read_text())
        elif command == "certonly":
            lineage(90)

    monkeypatch.setattr(program, "certbot", certbot)
    return found


def test_an_older_certificate_of_certbot_does_not_replace_one_of_another_host(
    copy: Make, make: Make, lineage: Callable[[int], str], revoked: list[str]
) -> None:
    before = os.readlink(copy(days=90).current)
    lineage(60)
    certificate = make(method="acme")  # this host becomes the one that obtains the certificates
    certificate.obtain()
    assert (os.readlink(certificate.current), revoked) == (before, [])


def test_a_copy_is_revoked_by_the_host_that_has_obtained_it(copy: Make, revoked: list[str]) -> None:
    certificate = copy()
    before = os.readlink(certificate.current)
    certificate.replace_and_revoke()
    assert (os.readlink(certificate.current), revoked) == (before, [])


@pytest.mark.parametrize("has_copy", [True, False])
def test_a_certificate_that_this_host_has_obtained_itself_is_revoked_here(
    copy: Make, make: Make, lineage: Callable[[int], str], revoked: list[str], has_copy: bool
) -> None:
    own = lineage(90)
    certificate = make(method="acme", issued_by="lb1")
    certificate.take_over(own, (certificate.lineage[1] / "privkey.pem").read_text())
    if has_copy:
        certificate = copy()
    certificate.replace_and_revoke()
    assert revoked == [own]
    assert (certificate.current / "fullchain.pem").read_text() != own
    assert certificate.lineage_is_whole is not has_copy


def test_certificate_of_another_host_without_a_domain_of_the_site_is_not_installed(copy: Make) -> None:
    certificate = copy(domains=["shop.example"])
    assert not certificate.current.exists()
    assert certificate.is_due()
    assert copy(domains=["more.example", "shop.example", "www.shop.example"]).show()["real"]
