"""The program `certificates`: how it calls certbot, and how it handles the result."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Make = Callable[..., Any]


class FakeCertbot:
    """Writes files like certbot does, and fails if `issues` or `revokes` is false."""

    def __init__(self, program: ModuleType) -> None:
        self.program = program
        self.issues = self.revokes = True
        self.is_due = False
        self.calls: list[list[str]] = []
        self.issued: list[str] = []
        self.revoked: list[str] = []

    def __call__(self, _settings: dict[str, Any], command: str, *options: str | Path) -> None:
        self.calls.append([command, *map(str, options)])
        if not (self.revokes if command == "revoke" else self.issues or (command == "renew" and not self.is_due)):
            raise self.program.CertificateError("the CA is down")
        if command == "revoke":
            path = Path(options[list(options).index("--cert-path") + 1])
            self.revoked.append(path.read_text())
        elif command == "certonly" or self.is_due:
            self.issue()

    def issue(self) -> None:
        conf, live, archive = self.program.Certificate("shop").lineage
        if not conf.exists():
            assert not live.exists()  # certbot would choose another name
            assert not archive.exists()
        chain, key = self.program.self_signed(["shop.example"], 30)
        for folder in (conf.parent, live, archive):
            folder.mkdir(parents=True, exist_ok=True)
        (live / "fullchain.pem").write_text(chain)
        (live / "privkey.pem").write_text(key)
        conf.write_text("version = 0")
        self.issued.append(chain)


@pytest.fixture
def ca(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> FakeCertbot:
    fake = FakeCertbot(program)
    monkeypatch.setattr(program, "certbot", fake)
    return fake


def served(program: ModuleType) -> str:
    return str((program.STATE / "shop/current/fullchain.pem").read_text())


def test_domain_without_an_address_is_reported_and_certbot_is_not_called(
    program: ModuleType, make: Make, ca: FakeCertbot
) -> None:
    make().obtain()
    before = os.readlink(make().current)
    certificate = make(method="acme", check_names=True, domains=["nowhere.invalid"])
    assert program.keep(certificate, "renew") is False
    assert os.readlink(certificate.current) == before
    assert "nowhere.invalid has no address in DNS" in make().state["error"]
    assert make().show()["due"]
    assert list(program.CHALLENGES.iterdir()) == []
    assert ca.calls == []


def test_certbot_obtains_a_certificate_once_and_then_decides_whether_it_is_due(
    program: ModuleType, make: Make, ca: FakeCertbot
) -> None:
    for _ in range(3):
        assert program.keep(make(method="acme"), "renew")
    assert [call[0] for call in ca.calls] == ["certonly", "renew", "renew"]
    assert ca.calls[0][-4:] == ["--domain", "shop.example", "--domain", "www.shop.example"]
    assert len(ca.issued) == 1
    version = os.readlink(make().current)
    ca.is_due = True
    assert program.keep(make(method="acme"), "renew")
    assert served(program) == ca.issued[1]
    assert os.readlink(make().current) != version


def test_force_obtains_a_new_certificate_although_the_current_one_is_valid(
    program: ModuleType, make: Make, ca: FakeCertbot
) -> None:
    assert program.keep(make(method="acme"), "renew")
    assert program.keep(make(method="acme"), "force")
    assert served(program) == ca.issued[1]
    assert [call[:2] for call in ca.calls] == [["certonly", "--force-renewal"]] * 2


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, ["--authenticator", "webroot", "--register-unsafely-without-email"]),
        ({"email": "me@shop.example"}, ["--authenticator", "webroot", "--email", "me@shop.example"]),
        (
            {"challenge": "dns", "dns_provider": "cloudflare"},
            ["--authenticator", "dns-cloudflare", "--register-unsafely-without-email"],
        ),
    ],
    ids=["http", "email", "dns"],
)
def test_certbot_gets_the_challenge_for_new_certificates_and_for_renewals(
    program: ModuleType, make: Make, ca: FakeCertbot, settings: dict[str, Any], options: list[str]
) -> None:
    for _ in range(2):
        assert program.keep(make(method="acme", **settings), "renew")
    assert ca.calls[0] == [
        *("certonly", "--force-renewal", "--cert-name", "shop", *options),
        *("--domain", "shop.example", "--domain", "www.shop.example"),
    ]
    assert ca.calls[1] == ["renew", "--cert-name", "shop", *options]


def test_certificate_of_an_interrupted_run_is_installed(program: ModuleType, make: Make, ca: FakeCertbot) -> None:
    assert program.keep(make(method="acme"), "renew")
    ca.issue()  # and the program was interrupted
    assert program.keep(make(method="acme"), "renew")
    assert served(program) == ca.issued[1]
    assert len(ca.issued) == 2


@pytest.mark.parametrize("lost", ["conf is empty", "conf", "live", "all"])
def test_certificate_is_obtained_again_when_files_of_certbot_are_missing_or_incomplete(
    program: ModuleType, make: Make, ca: FakeCertbot, lost: str
) -> None:
    assert program.keep(make(method="acme"), "renew")
    conf, live, archive = make().lineage
    if lost == "conf is empty":
        conf.write_text("")
    if lost in ("conf", "all"):
        conf.unlink()
    for folder in {"live": [live], "all": [live, archive]}.get(lost, []):
        shutil.rmtree(folder)
    assert make(method="acme").show()["due"]
    assert program.keep(make(method="acme"), "renew")
    assert served(program) == ca.issued[1]
    assert not make(method="acme").show()["due"]


def test_failed_renewal_is_reported_until_one_succeeds_and_changes_nothing(
    program: ModuleType, make: Make, ca: FakeCertbot
) -> None:
    assert program.keep(make(method="acme"), "renew")
    ca.issues, ca.is_due = False, True
    assert not program.keep(make(method="acme"), "renew")
    shown = make(method="acme").show()
    assert (shown["error"], shown["due"], shown["real"]) == ("the CA is down", True, True)
    assert served(program) == ca.issued[0]
    ca.issues = True
    assert program.keep(make(method="acme"), "renew")
    shown = make(method="acme").show()
    assert (shown["error"], shown["due"]) == ("", False)
    assert served(program) == ca.issued[1]


@pytest.fixture
def script(
    program: ModuleType, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Callable[[], None]]:
    """Replace certbot by a shell script that writes its arguments to the file `calls`."""
    monkeypatch.setattr(program, "CERTBOT", tmp_path / "certbot")
    monkeypatch.setattr(program, "SYSTEM_CAS", tmp_path / "system.pem")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "system.pem").write_text("system\n")
    (tmp_path / "own.pem").write_text("own\n")

    def made(text: str) -> Callable[[], None]:
        (tmp_path / "certbot").write_text(f'#!/bin/sh\necho "$@" >>calls\ncat "$REQUESTS_CA_BUNDLE" >bundle\n{text}\n')
        (tmp_path / "certbot").chmod(0o755)
        return lambda: program.certbot(make(ca_bundle="own.pem").settings, "renew", "--cert-name", "shop")

    return made


def test_certbot_trusts_the_system_cas_and_the_configured_one(program: ModuleType, script: Any, tmp_path: Path) -> None:
    script("true")()
    settings = f"--config {program.SETTINGS}/certbot.ini --server https://ca.example/dir"
    assert (tmp_path / "calls").read_text() == f"renew {settings} --cert-name shop\n"
    assert (tmp_path / "bundle").read_text() == "system\nown\n"


def test_error_contains_the_reason_of_the_ca_for_each_domain(program: ModuleType, script: Any) -> None:
    found = """
        echo 'Certbot failed to authenticate some domains (authenticator: webroot). The CA reported these problems:'
        for name in one.example two.example; do
            printf '  Identifier: %s\\n  Type:   connection\\n  Detail: 192.0.2.1: no route\\n\\n' $name
        done
        echo 'Some challenges have failed.' >&2
        exit 1
    """
    with pytest.raises(program.CertificateError) as caught:
        script(found)()
    reasons = "one.example: 192.0.2.1: no route; two.example: 192.0.2.1: no route"
    failed = "certbot renew with https://ca.example/dir failed: "
    assert str(caught.value) == f"{failed}the certificate authority could not verify the domains. {reasons}"


def test_error_otherwise_contains_only_the_reason_of_certbot(program: ModuleType, script: Any) -> None:
    said = "Saving debug log to /x\nAn unexpected error occurred:\nThe CA says no.\nAsk for help or search at x.\n"
    with pytest.raises(program.CertificateError, match=r"failed: The CA says no\.$"):
        script(f"printf '%s' '{said}' >&2; exit 1")()


def test_certbot_runs_again_only_after_a_refused_nonce(program: ModuleType, script: Any, tmp_path: Path) -> None:
    refused = "echo 'JWS has an invalid anti-replay nonce: x' >&2; exit 1"
    script(f'[ "$(wc -l <calls)" -gt 3 ] || {{ {refused}; }}')()
    assert len((tmp_path / "calls").read_text().splitlines()) == 4
    (tmp_path / "calls").unlink()
    with pytest.raises(program.CertificateError, match="nonce"):
        script(refused)()
    assert len((tmp_path / "calls").read_text().splitlines()) == program.MOST_TRIES
    (tmp_path / "calls").unlink()
    with pytest.raises(program.CertificateError, match="rate limit"):
        script("echo 'rate limit' >&2; exit 1")()
    assert len((tmp_path / "calls").read_text().splitlines()) == 1


@pytest.fixture
def revoke(program: ModuleType, make: Make, ca: FakeCertbot) -> Callable[[], bool]:
    """Revoke the certificate of a site that has one from the CA; returns whether that succeeded."""

    def site() -> Any:
        return make(method="acme")

    assert program.keep(site(), "renew")
    assert len(ca.issued) == 1
    return lambda: bool(program.keep(site(), "revoke"))


def test_revoke_replaces_the_certificate_and_revokes_the_previous_one(
    program: ModuleType, ca: FakeCertbot, revoke: Callable[[], bool]
) -> None:
    assert revoke()
    first, second = ca.issued
    assert ca.revoked == [first]
    assert served(program) == second


def test_current_certificate_is_not_revoked_if_no_new_one_can_be_obtained(
    program: ModuleType, ca: FakeCertbot, revoke: Callable[[], bool]
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


def test_failed_revocation_is_repeated_without_another_certificate(
    program: ModuleType, ca: FakeCertbot, revoke: Callable[[], bool]
) -> None:
    ca.revokes = False
    assert not revoke()
    first, second = ca.issued
    assert (ca.revoked, served(program)) == ([], second)
    ca.revokes = True
    assert revoke()
    assert ca.revoked == [first]
    assert ca.issued == [first, second]
    assert not list((program.STATE / "shop").glob("to-revoke*"))


def test_certificate_that_is_already_revoked_is_no_error(
    program: ModuleType, make: Make, ca: FakeCertbot, revoke: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    ca.revokes = False
    assert not revoke()

    def already(_settings: dict[str, Any], *_: str) -> None:
        raise program.CertificateError("certbot revoke failed: Certificate has already been revoked.")

    monkeypatch.setattr(program, "certbot", already)
    assert revoke()
    assert not list((program.STATE / "shop").glob("to-revoke*"))
    assert make(method="acme").show()["error"] == ""


def test_second_revocation_revokes_the_next_certificate(ca: FakeCertbot, revoke: Callable[[], bool]) -> None:
    assert revoke()
    assert revoke()
    assert ca.revoked == ca.issued[:2]
    assert len(ca.issued) == 3
