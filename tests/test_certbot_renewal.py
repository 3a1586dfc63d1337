"""Renewal times: certbot asks the certificate authority for them (ACME Renewal Information, RFC 9773)."""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

pytestmark = [pytest.mark.needs("openssl"), pytest.mark.slow]
LOCK = Path(__file__).resolve().parent.parent / "roles/certificate/files/certbot.txt"
DAY = datetime.timedelta(days=1)
Make = Callable[..., Any]


@pytest.fixture(scope="session")
def certbot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """certbot in the version that hosts get."""
    venv = tmp_path_factory.mktemp("certbot") / "venv"
    uv, python = Path(sys.executable).parent / "uv", venv / "bin/python"
    (locked,) = re.findall(r"^certbot==\S+", LOCK.read_text(), re.MULTILINE)
    install = ["install", "--quiet", "--system-certs", "--require-hashes", f"--python={python}"]
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, venv], check=True)
    subprocess.run([uv, "pip", *install, f"--constraint={LOCK}", locked], check=True)
    return venv / "bin/certbot"


class Authority(ThreadingHTTPServer):
    """An ACME directory that suggests a time for renewals and issues nothing.

    It answers the requests before an order; an account can't be created, so certbot fails when it renews.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.renewal = datetime.datetime.now(datetime.UTC)  # the begin of the suggested window
        self.refusal = "unauthorized", "not today"  # type and text of the error for each request to create an account
        self.asked: list[str] = []

    @property
    def times_asked(self) -> int:
        return len([path for path in self.asked if path.startswith("/renewal-info/")])

    @property
    def renewals(self) -> int:
        return self.asked.count("/account")


class Handler(BaseHTTPRequestHandler):
    server: Authority

    def respond(self, status: int, body: dict[str, Any]) -> None:
        self.server.asked.append(self.path)
        self.send_response(status)
        text = json.dumps(body).encode()
        for name, value in {
            "Replay-Nonce": "bm9uY2U",
            "Retry-After": "21600",
            "Content-Length": str(len(text)),
        }.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json" if status == 200 else "application/problem+json")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def do_HEAD(self) -> None:
        self.respond(200, {})

    def do_GET(self) -> None:
        at = self.server.address
        if self.path == "/dir":
            paths = {"newNonce": "nonce", "newAccount": "account", "newOrder": "order", "renewalInfo": "renewal-info"}
            self.respond(200, {name: f"{at}/{path}" for name, path in paths.items()})
            return
        begin, end = self.server.renewal, self.server.renewal + datetime.timedelta(minutes=1)
        self.respond(200, {"suggestedWindow": {"start": begin.isoformat(), "end": end.isoformat()}})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        error, detail = self.server.refusal
        self.respond(400, {"type": f"urn:ietf:params:acme:error:{error}", "detail": detail})

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def authority() -> Iterator[Authority]:
    """A certificate authority on a port of localhost."""
    with Authority() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def issued(begin: datetime.datetime, end: datetime.datetime) -> tuple[str, str]:
    """A certificate with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "shop.example")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)
    for extension in (
        x509.SubjectAlternativeName([x509.DNSName("shop.example"), x509.DNSName("www.shop.example")]),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()),
    ):
        builder = builder.add_extension(extension, critical=False)
    chain = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return chain.decode(), key.private_bytes(*form).decode()


@pytest.fixture
def renew(
    program: ModuleType,
    make: Make,
    certbot: Path,
    authority: Authority,
    render: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Callable[[], bool]]:
    """A site with a certificate that is valid between two times; the result renews it as the timer does."""
    monkeypatch.setattr(program, "CERTBOT", certbot)
    configured = render("certificate", "certbot.ini.j2", certificate_dns_provider="")
    configured = configured.replace("/var/lib/certificates", str(program.STATE))
    (program.SETTINGS / "certbot.ini").write_text(configured)
    (program.STATE / "challenges").mkdir()

    def site(begin: datetime.datetime, end: datetime.datetime) -> Callable[[], bool]:
        settings = {"method": "acme", "directory": f"{authority.address}/dir"}
        certificate = make(**settings)
        chain, key = issued(begin, end)
        certificate.take_over(chain, key)
        conf, live, archive = certificate.lineage
        contents = {"cert": chain, "privkey": key, "chain": chain, "fullchain": chain}
        for folder in (conf.parent, live, archive):
            folder.mkdir(parents=True)
        for name, content in contents.items():
            (archive / f"{name}1.pem").write_text(content)
            (live / f"{name}.pem").symlink_to(archive / f"{name}1.pem")
        lines = [f"archive_dir = {archive}", *(f"{name} = {live}/{name}.pem" for name in contents)]
        lines += ["[renewalparams]", f"server = {settings['directory']}", "authenticator = webroot"]
        conf.write_text("version = 5.0.0\n" + "\n".join(lines) + "\n")
        return lambda: bool(program.keep(make(**settings), "renew"))

    return site


@pytest.mark.parametrize(
    ("refusal", "runs"),
    [(("unauthorized", "not today"), 1), (("badNonce", "JWS has an invalid anti-replay nonce"), 5)],
    ids=["unauthorized", "badNonce"],
)
def test_a_certificate_is_renewed_when_the_certificate_authority_says_so_until_that_succeeds(
    authority: Authority, renew: Callable[..., Callable[[], bool]], make: Make, refusal: tuple[str, str], runs: int
) -> None:
    """For example before the certificate authority revokes it: the certificate is valid for much longer."""
    now = datetime.datetime.now(datetime.UTC)
    authority.renewal, authority.refusal = now - DAY, refusal
    again = renew(now - DAY, now + 89 * DAY)
    for attempt in (1, 2):
        assert not again()
        assert authority.times_asked == attempt * runs
        assert authority.renewals >= attempt * runs
        assert refusal[1] in make().state["error"]


def test_a_certificate_is_not_renewed_before_the_time_that_the_certificate_authority_suggests(
    authority: Authority, renew: Callable[..., Callable[[], bool]]
) -> None:
    """Also when less than a third of its lifetime is left: without a suggestion, certbot would renew it then."""
    now = datetime.datetime.now(datetime.UTC)
    authority.renewal = now + DAY
    assert renew(now - 80 * DAY, now + 10 * DAY)()
    assert (authority.times_asked, authority.renewals) == (1, 0)


def test_the_certificate_authority_is_asked_again_after_the_time_that_it_says(
    authority: Authority, renew: Callable[..., Callable[[], bool]], make: Make
) -> None:
    now = datetime.datetime.now(datetime.UTC)
    authority.renewal = now + 60 * DAY
    again = renew(now - DAY, now + 89 * DAY)
    assert again()
    assert again()
    assert (authority.times_asked, authority.renewals) == (1, 0)
    conf = make().lineage[0]
    conf.write_text(re.sub(r"(?<=ari_retry_after = )\S+", "2020-01-01T00:00:00", conf.read_text()))
    assert again()
    assert (authority.times_asked, authority.renewals) == (2, 0)
