"""Responses to clients."""

from __future__ import annotations

import hashlib
import http.client
import re

import pytest
from testing import Machine, Web

testinfra_hosts = ["ansible://webservers"]
FORGED = {
    "X-Forwarded-For": "198.51.100.7",
    "X-Forwarded-Host": "forged.example",
    "X-Forwarded-Port": "4711",
    "X-Forwarded-Prefix": "/forged",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Ssl": "on",
    "X-Forwarded-User": "root",
    "Remote-User": "root",
    "X-Real-IP": "198.51.100.7",
    "X-Request-Id": "forged",
    "Forwarded": "for=198.51.100.7;proto=https",
}


def test_index_page_responds(machine: Machine) -> None:
    answer = machine.web.ask("/")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "Hello from Flask server" in answer.text


def test_index_page_responds_to_head(machine: Machine) -> None:
    answer = machine.web.ask("/", "HEAD")
    assert (answer.status, answer.text) == (200, "")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_api2_responds(machine: Machine, method: str) -> None:
    answer = machine.web.ask("/api2", method)
    assert answer.status == 201
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json == {"server_status": 201, "description": "Hello from python"}


def test_health_check_responds(machine: Machine) -> None:
    assert machine.web.ask("/healthz").status == 200


def test_links_of_the_index_page_exist(machine: Machine) -> None:
    for link in re.findall(r'(?:src|href)="([^"]+)"', machine.web.ask("/").text):
        assert machine.web.ask(link).status < 300, link


def test_large_text_is_compressed(machine: Machine) -> None:
    answer = machine.web.ask("/static/style.css", "HEAD", {"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"


def test_responses_contain_no_version_numbers(machine: Machine) -> None:
    for path in ("/", "/nothing"):
        answer = machine.web.ask(path)
        assert answer.headers["Server"] == "nginx"
        assert "nginx/" not in answer.text


@pytest.mark.parametrize("name", ["stranger.example", "site.example.stranger.example", "127.0.0.1"])
def test_request_for_an_unknown_host_name_gets_no_response(machine: Machine, name: str) -> None:
    with pytest.raises(ConnectionError):  # nginx closes the connection without a response
        machine.web.ask(host=name)


def test_request_without_a_host_name_is_refused(machine: Machine) -> None:
    connection = http.client.HTTPConnection(machine.web.address, machine.web.port, timeout=10)
    connection.putrequest("GET", "/", skip_host=True)
    connection.endheaders()
    assert connection.getresponse().status == 400


def test_further_domain_redirects_to_the_first(machine: Machine) -> None:
    port = "" if machine.web.port == 80 else f":{machine.web.port}"
    answer = machine.web.ask("/api2?a=b", host="www.site.example")
    assert answer.status == 301
    assert answer.headers["Location"] == f"http://site.example{port}/api2?a=b"


def test_each_app_is_served_on_its_own_domain(machine: Machine, echo: Web) -> None:
    assert echo.ask("/").json["greeting"]
    assert "greeting" not in machine.web.ask("/").text


def test_app_gets_the_address_of_the_client_and_the_requested_url(echo: Web, machine: Machine) -> None:
    seen = echo.ask("/?q=1").json
    port = "" if echo.port == 80 else f":{echo.port}"
    assert seen["scheme"] == "http"
    assert seen["host"] == echo.domain + port
    assert seen["url"] == f"http://{echo.domain}{port}/?q=1"
    assert seen["client"] == machine.host.check_output("echo $SSH_CLIENT").split()[0]
    assert seen["without_proxy_fix"] == {name: seen[name] for name in ("client", "scheme", "host")}


def test_client_cannot_forge_its_identity(echo: Web) -> None:
    honest, forged = echo.ask("/").json, echo.ask("/", headers=FORGED | {"Host": f"{echo.domain}:4711"}).json
    assert "forged" not in (honest["headers"].pop("X-Request-Id"), forged["headers"].pop("X-Request-Id"))
    for name in ("client", "scheme", "host", "url", "without_proxy_fix", "headers"):
        assert forged[name] == honest[name], name


def test_app_gets_its_environment_and_secrets_unchanged(echo: Web) -> None:
    seen = echo.ask("/").json
    assert seen["greeting"] == 'hello "$HOME" `id` \\n %i é'
    assert seen["secret_digest"] == hashlib.sha256(b"squid-ink-4711").hexdigest()


def test_slow_request_does_not_block_other_requests(echo: Web) -> None:
    slow = http.client.HTTPConnection(echo.address, echo.port, timeout=15)
    slow.request("GET", "/slow?seconds=2", headers={"Host": echo.domain})
    assert echo.ask("/").status == 200
    assert slow.getresponse().read() == b"done\n"
