"""Webservers behind proxies, in a real nginx: which address counts as that of the client."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from nginx_site import DOMAIN, Site, needs_nginx, own_address

pytestmark = needs_nginx
CHALLENGE = "/.well-known/acme-challenge/"


def logged_clients(site: Site) -> list[str]:
    """The addresses of the clients in the log of nginx, which writes it within a second."""
    log = site.folder / "log/access.log"
    deadline = time.monotonic() + 20
    while not log.stat().st_size and time.monotonic() < deadline:
        time.sleep(0.1)
    return [json.loads(line)["client"] for line in log.read_text().splitlines()]


@pytest.mark.parametrize("trusted", [False, True])
def test_only_a_trusted_proxy_names_the_client(site: Site, trusted: bool) -> None:
    site.settings = {"nginx_trusted_proxies": [own_address() if trusted else "192.0.2.250"]}
    site.start({})
    site.ask("/", X_Forwarded_For="127.0.0.1, 203.0.113.9")
    assert logged_clients(site) == ["203.0.113.9" if trusted else own_address()]


@pytest.mark.parametrize("trusted", [False, True])
def test_a_health_check_of_a_trusted_proxy_needs_no_password_and_passes_in_maintenance(
    site: Site, trusted: bool
) -> None:
    site.settings = {"nginx_trusted_proxies": [own_address()] if trusted else []}
    site.start({"basic_auth": {"staging": "$6$salt$hash"}})
    assert site.ask("/", X_Forwarded_For="127.0.0.1").status == (200 if trusted else 401)
    (site.root / "maintenance").touch()
    assert site.ask("/", X_Forwarded_For="127.0.0.1").status == (200 if trusted else 503)


def test_limits_count_the_clients_of_a_proxy_one_by_one(site: Site) -> None:
    site.settings = {"nginx_trusted_proxies": [own_address()]}
    site.start({"limits": {"requests": 1, "burst": 0}})
    clients = ["203.0.113.8", "203.0.113.8", "203.0.113.9"]
    assert [site.ask("/", X_Forwarded_For=client).status for client in clients] == [200, 429, 200]


# --- challenges of a certificate authority ----------------------------------------------------------------------------


class Balancer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"{self.headers['Host']} {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def balancer() -> Iterator[str]:
    """The address and port of a server that has all answers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Balancer) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_the_balancers_have_the_answers_that_the_webserver_does_not_have(site: Site, balancer: str) -> None:
    site.settings = {"nginx_challenge_servers": [balancer]}
    own = site.folder / f"challenges{CHALLENGE}own"
    own.parent.mkdir(parents=True)
    own.write_text("own answer")
    site.start({"basic_auth": {"staging": "$6$salt$hash"}})
    assert site.ask(f"{CHALLENGE}own").text == "own answer"
    for name in (DOMAIN, "moving.example"):
        answer = site.ask(f"{CHALLENGE}other", Host=name)
        assert (answer.status, answer.text.split(":")[0].split()[0]) == (200, name)
