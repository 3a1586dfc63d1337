"""Certificates: issue, renewal, revocation, changed domains, failures of the certificate authority."""

from __future__ import annotations

import datetime
import http.client
import json
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from testing import Machine, Run, Web, wait_for

testinfra_hosts = ["ansible://web12"]
Play = Callable[..., Run]
ChangedApp = Callable[..., list[str]]
CertificateOf = Callable[[str], x509.Certificate]
PEBBLE = "/etc/systemd/system/pebble.service.d"


def names(certificate: x509.Certificate) -> list[str]:
    """The host names in a certificate."""
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return sorted(extension.value.get_values_for_type(x509.DNSName))


@pytest.fixture
def pebble(ca: Any, machine: Machine) -> Iterator[Callable[..., None]]:
    """Restart the certificate authority with other settings. It has a new root and no accounts after a restart, so
    certbot needs a new account."""
    yield lambda *settings: restart(ca, machine, "[Service]\n" + "".join(f"{line}\n" for line in settings))
    ca.run(f"rm -rf {PEBBLE}")
    restart(ca, machine, "")


def restart(ca: Any, machine: Machine, settings: str) -> None:
    ca.run_expect([0], f"mkdir -p {PEBBLE} && printf %s '{settings}' > {PEBBLE}/test.conf && systemctl daemon-reload")
    ca.run_expect([0], "systemctl restart pebble")
    wait_for(
        lambda: ca.run("curl -skf https://localhost:14000/dir").rc == 0, 10, "the certificate authority has started"
    )
    with machine.host.sudo():
        machine.host.run_expect([0], "rm -rf /var/lib/certificates/certbot")


def test_one_certificate_contains_all_domains_of_an_app(site: Web, certificate_of: CertificateOf) -> None:
    certificate = certificate_of(site.domain)
    assert names(certificate) == [site.domain, f"www.{site.domain}"]
    assert site.ask("/").status == 200  # `site` trusts only this certificate authority


def test_private_keys_are_readable_only_by_their_user(machine: Machine) -> None:
    for path in ("/var/lib/certificates/blueoctopus/current/privkey.pem", "/var/lib/certificates/certbot"):
        assert machine.host.run(f"runuser -u echo -- cat {path}").rc != 0
        with machine.host.sudo():
            assert machine.host.file(path).user == "certificates"
            assert machine.host.file(path).mode & 0o077 == 0


def test_certificate_that_is_not_due_is_not_renewed(machine: Machine, site: Web, certificate_of: CertificateOf) -> None:
    before = certificate_of(site.domain)
    with machine.host.sudo():
        machine.host.run_expect([0], "systemctl start certificates@renew:all.service")
    assert certificate_of(site.domain) == before


def test_certificate_is_renewed_when_the_certificate_authority_asks_for_it(
    machine: Machine, echo: Web, certificate_of: CertificateOf, authority: Any
) -> None:
    """For example before a revocation: the certificate is valid for much longer."""
    before = certificate_of(echo.domain)
    revoke = "revoke --cert-path /var/lib/certificates/echo/current/fullchain.pem --server https://ca.test:14000/dir"
    with machine.host.sudo():
        machine.host.run_expect(
            [0],
            "cd / && runuser -u certificates -- env REQUESTS_CA_BUNDLE=/var/lib/certificates/ca-bundle.pem "
            f"/usr/local/lib/certbot/bin/certbot {revoke} --config /etc/certificates/certbot.ini",
        )
        # certbot stores when it may ask again, six hours later.
        machine.host.run_expect([0], "sed -i /ari_retry_after/d /var/lib/certificates/certbot/renewal/echo.conf")
        machine.host.run_expect([0], "systemctl start certificates@renew:all.service")
    wait_for(lambda: certificate_of(echo.domain).serial_number != before.serial_number, 5, "there is a new certificate")
    assert authority.status(before) == "Revoked"
    assert authority.status(certificate_of(echo.domain)) == "Valid"
    assert echo.ask("/").status == 200


def visit(web: Web, until: threading.Event, answered: list[int], failures: list[str]) -> None:
    """Send requests over one connection like browsers do, with short pauses: if the server closes a used connection
    without a response, send the request again on a new one."""
    connection: http.client.HTTPConnection | None = None
    while not until.is_set():
        kept = connection is not None
        try:
            connection = connection or web.connect(web.domain)
            connection.request("GET", "/", headers={"Host": web.domain})
            response = connection.getresponse()
            response.read()
            answered.append(response.status)
            if response.will_close:
                connection = None
        except (OSError, http.client.HTTPException) as error:
            connection = None
            if not kept:
                failures.append(repr(error))
        time.sleep(0.02)


def test_renewal_under_load_drops_no_request(play: Play, echo: Web, certificate_of: CertificateOf) -> None:
    before = certificate_of(echo.domain)
    stop, answered, failures = threading.Event(), list[int](), list[str]()
    clients = [threading.Thread(target=visit, args=(echo, stop, answered, failures)) for _ in range(8)]
    for client in clients:
        client.start()
    try:
        run = play("certificate", "-e", "app=echo", "-e", "operation=force")
        time.sleep(1)
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert run.code == 0, run.output
    assert certificate_of(echo.domain).serial_number != before.serial_number
    print(len(answered), "answered")
    assert failures == []
    assert set(answered) == {200}
    assert len(answered) > 300


def test_certificate_is_replaced_before_it_is_revoked(
    play: Play, echo: Web, certificate_of: CertificateOf, authority: Any
) -> None:
    before = certificate_of(echo.domain)
    assert authority.status(before) == "Valid"
    run = play("certificate", "-e", "app=echo", "-e", "operation=revoke")
    assert run.code == 0, run.output
    after = certificate_of(echo.domain)
    assert (authority.status(before), authority.status(after)) == ("Revoked", "Valid")
    assert echo.ask("/").status == 200


def test_certificate_follows_added_and_removed_domains(
    machine: Machine, play: Play, changed_app: ChangedApp, echo: Web, certificate_of: CertificateOf
) -> None:
    added = f"new.{machine.name}.test"
    run = play("deploy", "-e", "app=echo", *changed_app("echo", domains=[echo.domain, added]))
    assert run.code == 0, run.output
    assert names(certificate_of(added)) == sorted([echo.domain, added])
    assert echo.ask("/x", host=added).headers["Location"] == f"https://{echo.domain}/x"
    assert play("deploy", "-e", "app=echo", *changed_app("echo", release_command="false")).code != 0
    assert names(certificate_of(added)) == sorted([echo.domain, added])
    assert play("deploy", "-e", "app=echo").code == 0
    assert names(certificate_of(echo.domain)) == [echo.domain]


def test_domain_that_resolves_elsewhere_is_reported_and_no_certificate_is_requested(
    machine: Machine,
    play: Play,
    changed_app: ChangedApp,
    echo: Web,
    ca: Any,
    certificate_of: CertificateOf,
    authority: Any,
) -> None:
    before = certificate_of(echo.domain)
    with machine.host.sudo():
        machine.host.run_expect([0], f"echo '{authority.address} elsewhere.test' >> /etc/hosts")
    asked = ca.check_output("journalctl -u pebble | grep -c order-plz || true")
    strays = ["nowhere.invalid", "elsewhere.test"]
    run = play("deploy", "-e", "app=echo", *changed_app("echo", domains=[echo.domain, *strays]))
    assert run.code != 0
    assert "nowhere.invalid has no address in DNS. Add an A record with this host's address" in run.output, run.output
    assert f"elsewhere.test resolves to {authority.address}, where port 80 can't be reached" in run.output
    assert ca.check_output("journalctl -u pebble | grep -c order-plz || true") == asked
    assert certificate_of(echo.domain) == before
    assert echo.ask("/").status == 200


def test_app_without_a_certificate_is_served_over_http_and_delays_no_other_app(
    machine: Machine, play: Play, echo: Web, site: Web, plain: Web
) -> None:
    with machine.host.sudo():  # like before the first certificate
        machine.host.run_expect([0], "rm -r /var/lib/certificates/echo && sed -i s/echo.[a-z0-9]*.test// /etc/hosts")
    try:
        run = play("deploy")
        assert run.code != 0
        assert f"echo: {echo.domain} has no address in DNS" in run.output, run.output
        assert "Every app is deployed, but these certificates are missing" in run.output
        unencrypted = replace(plain, domain=echo.domain)
        assert unencrypted.ask("/").json["scheme"] == "http"
        assert site.ask("/").status == 200
        assert "no certificate yet" in play("status").output
    finally:
        with machine.host.sudo():
            machine.host.run_expect([0], f"echo {machine.web.address} {echo.domain} >> /etc/hosts")
            # The timer on the host does the same.
            machine.host.run_expect([0], "systemctl start certificates@renew:all.service")
    wait_for(lambda: echo.ask("/").status == 200, 5, "nginx has the certificate")
    assert unencrypted.ask("/").headers["Location"] == f"https://{echo.domain}/"


def test_certificate_is_not_renewed_while_the_app_has_no_https(
    machine: Machine, play: Play, changed_app: ChangedApp, echo: Web
) -> None:
    settings = machine.host.file("/etc/certificates/echo.json")
    assert settings.exists
    run = play("deploy", "-e", "app=echo", *changed_app("echo", tls="none"))
    assert run.code == 0, run.output
    assert replace(echo, port=80, tls=None).ask("/").status == 200
    assert not settings.exists


@pytest.mark.usefixtures("pebble")  # which starts it again
def test_site_stays_up_when_the_certificate_authority_is_down(
    play: Play, echo: Web, ca: Any, certificate_of: CertificateOf
) -> None:
    before = certificate_of(echo.domain)
    ca.run_expect([0], "systemctl stop pebble")
    run = play("certificate", "-e", "app=echo", "-e", "operation=force")
    assert run.code != 0
    problem = "certbot certonly with https://ca.test:14000/dir failed"
    assert problem in run.output, run.output
    assert certificate_of(echo.domain) == before
    assert echo.ask("/").status == 200
    status = play("status", "-e", "app=echo").output
    assert "acme, 89 days left" in status, status
    assert problem in status, status


def test_renewal_works_when_one_nonce_of_five_is_refused(
    play: Play, echo: Web, certificate_of: CertificateOf, pebble: Callable[..., None]
) -> None:
    pebble("Environment=PEBBLE_WFE_NONCEREJECT=20")
    before = certificate_of(echo.domain)
    begun = time.monotonic()
    run = play("certificate", "-e", "app=echo", "-e", "operation=force")
    print(f"{time.monotonic() - begun:.1f} s")
    assert run.code == 0, run.output
    assert certificate_of(echo.domain).serial_number != before.serial_number


def test_short_lived_certificate_is_renewed_after_half_of_its_lifetime(
    machine: Machine, play: Play, echo: Web, ca: Any, certificate_of: CertificateOf, pebble: Callable[..., None]
) -> None:
    ca.run_expect([0], "sed 's/7776000/80/' /etc/pebble/pebble.json > /etc/pebble/short.json")
    pebble("ExecStart=", "ExecStart=/usr/bin/pebble -config /etc/pebble/short.json -dnsserver 127.0.0.1:8053")
    assert play("certificate", "-e", "app=echo", "-e", "operation=force").code == 0
    first = certificate_of(echo.domain)
    half = first.not_valid_before_utc + (first.not_valid_after_utc - first.not_valid_before_utc) / 2

    def look() -> x509.Certificate:
        with machine.host.sudo():
            machine.host.run_expect([0], "systemctl start certificates@renew:all.service")
        return certificate_of(echo.domain)

    assert look() == first
    time.sleep(max(0, (half - datetime.datetime.now(datetime.UTC)).total_seconds()) + 1)
    wait_for(lambda: look().serial_number != first.serial_number, 60, "there is a new certificate")


def test_certificate_can_be_self_signed_or_provided(
    machine: Machine, play: Play, changed_app: ChangedApp, echo: Web, certificate_of: CertificateOf, tmp_path: Path
) -> None:
    run = play("deploy", "-e", "app=echo", *changed_app("echo", tls="selfsigned"))
    assert run.code == 0, run.output
    assert machine.host.file("/etc/certificates/echo.json").exists  # it had no HTTPS in the previous test
    own = certificate_of(echo.domain)
    assert own.issuer == own.subject
    assert names(own) == [echo.domain]

    pair = ["-keyout", f"{tmp_path}/key.pem", "-out", f"{tmp_path}/chain.pem"]
    subject = ["-subj", "/CN=provided", "-addext", f"subjectAltName=DNS:{echo.domain}"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *pair, *subject], check=True, capture_output=True
    )
    chain, key = (tmp_path / "chain.pem").read_text(), (tmp_path / "key.pem").read_text()
    provided = changed_app("echo", tls="provided", tls_certificate=chain, tls_key=key)
    run = play("deploy", "-e", "app=echo", *provided, "--diff", "-vvv")
    assert run.code == 0, run.output
    assert key.splitlines()[2] not in run.output
    assert certificate_of(echo.domain) == x509.load_pem_x509_certificate(chain.encode())
    assert play("deploy", "-e", "app=echo", *provided).recap(machine.name)["changed"] == 0
    trusting = ssl.create_default_context(cafile=tmp_path / "chain.pem")
    assert replace(echo, tls=trusting).ask("/").status == 200


def test_dns_challenge_obtains_a_wildcard_certificate(
    machine: Machine,
    play: Play,
    changed_app: ChangedApp,
    echo: Web,
    authority: Any,
    ca: Any,
    certificate_of: CertificateOf,
) -> None:
    (key,) = yaml.safe_load((Path(__file__).parents[1] / "files/knot.conf").read_text())["key"]
    credentials = {
        "server": authority.address,
        "port": 8053,
        "name": key["id"],
        "secret": key["secret"],
        "algorithm": key["algorithm"].upper(),
    }
    settings = {
        "certificate_dns_provider": "rfc2136",
        "certificate_dns_credentials": "".join(
            f"dns_rfc2136_{name} = {value}\n" for name, value in credentials.items()
        ),
        "certificate_dns_propagation": 1,
    }
    wild = f"*.sub.{machine.name}.test"
    options = changed_app("echo", domains=[echo.domain, wild], tls_challenge="dns")
    run = play("site", "-e", "app=echo", *options, "-e", json.dumps(settings), "--diff", "-v")
    assert run.code == 0, run.output
    assert names(certificate_of(f"any.sub.{machine.name}.test")) == sorted([wild, echo.domain])
    assert "_acme-challenge" not in ca.check_output("knotc zone-read test")
    packages = machine.host.check_output("ls /usr/local/lib/certbot/lib/python3*/site-packages")
    assert re.findall(r"^certbot_dns_(\w+)$", packages, re.MULTILINE) == ["rfc2136"]

    assert key["secret"] not in run.output
    assert machine.host.run("cat /etc/certificates/dns-credentials").rc != 0
    with machine.host.sudo():
        assert machine.host.file("/etc/certificates/dns-credentials").mode == 0o640
        assert machine.host.run(f"grep -r {key['secret']} /var/lib/certificates /etc/systemd/system").rc == 1
        # The timer does the same.
        machine.host.run_expect([0], "systemctl start certificates@renew:echo.service")
    assert play("deploy", "-e", "app=echo").code == 0
