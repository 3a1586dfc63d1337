from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from flask import Flask, request
from flask.testing import FlaskClient
from main import create_app

FORGED = {"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "forged.example"}


def seen_by(app: Flask) -> Flask:
    """Add a page that returns client, scheme and host of its request."""
    app.add_url_rule("/seen", view_func=lambda: f"{request.remote_addr} {request.scheme} {request.host}")
    return app


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_index_page_contains_the_greeting(client: FlaskClient, method: str) -> None:
    response = client.open("/", method=method)
    assert response.status_code == 200
    assert response.mimetype == "text/html"
    assert ("Hello from Flask server" in response.text) == (method == "GET")


def test_index_page_loads_only_its_own_files(client: FlaskClient) -> None:
    links = re.findall(r'(?:src|href)="([^"]+)"', client.get("/").text)
    assert links
    for link in links:
        assert link.startswith("/"), link
        assert client.get(link).status_code < 300, link


def test_index_page_refuses_post(client: FlaskClient) -> None:
    assert client.post("/").status_code == 405


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_api2_returns_indented_json(client: FlaskClient, method: str) -> None:
    response = client.open("/api2", method=method)
    assert response.status_code == 201
    assert response.content_type == "application/json"
    assert response.json == {"server_status": 201, "description": "Hello from python"}
    assert response.text.startswith('{\n  "server_status": 201,\n')


def test_health_check_returns_200(client: FlaskClient) -> None:
    assert client.get("/healthz").status_code == 200


def test_unknown_page_returns_404(client: FlaskClient) -> None:
    assert client.get("/nothing").status_code == 404


@pytest.mark.parametrize("path", ["/", "/api2", "/nothing"])
def test_every_response_restricts_what_browsers_do_with_it(client: FlaskClient, path: str) -> None:
    headers = client.get(path, base_url="https://site.example").headers
    assert "default-src 'self';" in headers["Content-Security-Policy"]
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_on_plain_http_the_opener_policy_is_omitted(client: FlaskClient) -> None:
    assert "Cross-Origin-Opener-Policy" not in client.get("/").headers


def test_without_a_proxy_forwarded_headers_are_ignored() -> None:
    client = seen_by(create_app()).test_client()
    assert client.get("/seen", headers=FORGED).text == "127.0.0.1 http localhost"


def test_behind_nginx_the_app_reads_client_scheme_and_host() -> None:
    client = seen_by(create_app(trusted_proxies=1)).test_client()
    headers = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "site.example"}
    assert client.get("/seen", headers=headers).text == "203.0.113.9 https site.example"


def test_behind_nginx_only_the_entry_of_nginx_is_used() -> None:
    client = seen_by(create_app(trusted_proxies=1)).test_client()
    headers = {"X-Forwarded-For": "198.51.100.7, 203.0.113.9"}
    assert client.get("/seen", headers=headers).text.startswith("203.0.113.9 ")


def test_development_server_listens_only_on_loopback_without_debugger(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as out:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FLASK_")}
        server = subprocess.Popen(
            [sys.executable, "-u", "main.py"],
            cwd=Path(__file__).resolve().parent.parent,
            stdout=out,
            stderr=out,
            env=environment | {"FLASK_RUN_PORT": str(free_port())},
        )
    try:
        address = wait_for_address(log)
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{address}/healthz") as answer:
            assert answer.status == 200
        assert "Debug mode: off" in log.read_text()
    finally:
        server.terminate()
        server.wait(timeout=10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_address(log: Path) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = re.findall(r"Running on (http://\S+)", log.read_text())
        if found:
            assert len(found) == 1, f"the server listens on more than one address: {found}"
            return str(found[0])
        time.sleep(0.05)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")
