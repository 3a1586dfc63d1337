"""Responses to clients over HTTP and HTTPS: redirects, headers, limits, compression, error pages, log, browsers."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testing import Answer, Machine, Run, Web, wait_for
from web_client import browse

testinfra_hosts = ["ansible://webservers"]
Play = Callable[..., Run]
ChangedApp = Callable[..., list[str]]
HEADERS = {
    "Strict-Transport-Security": "max-age=63072000",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Permissions-Policy": "camera=(self), geolocation=(self), microphone=(self), usb=(self)",
}


def test_http_redirects_to_https(plain: Web, site: Web) -> None:
    answer = plain.ask("/api2?a=b")
    assert (answer.status, answer.headers["Location"]) == (301, f"https://{site.domain}/api2?a=b")
    assert site.ask("/api2?a=b").status == 201


@pytest.mark.parametrize("secure", [False, True])
def test_other_domains_redirect_to_the_first(plain: Web, site: Web, secure: bool) -> None:
    answer = (site if secure else plain).ask("/x?y=z", host=f"www.{site.domain}")
    assert (answer.status, answer.headers["Location"]) == (301, f"https://{site.domain}/x?y=z")


def test_request_for_an_unknown_host_name_is_refused(plain: Web, site: Web) -> None:
    with pytest.raises(ConnectionError):  # nginx closes the connection without a response
        plain.ask("/", host="stranger.test")
    with pytest.raises(ssl.SSLError, match="unrecognized name"):
        site.ask("/", host="stranger.test")
    nameless = socket.create_connection((site.address, 443), 10)
    with pytest.raises(ssl.SSLError):
        ssl._create_unverified_context().wrap_socket(nameless)


@pytest.mark.parametrize(
    ("path", "status"),
    [("/", 200), ("/static/style.css", 200), ("/nowhere", 404), ("/.git/config", 404), ("/static/none.css", 404)],
)
def test_every_response_contains_the_security_headers(site: Web, path: str, status: int) -> None:
    answer = site.ask(path)
    assert answer.status == status
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    # The app sets these itself; nginx adds them to no file or error page of its own.
    from_app = path in ("/", "/nowhere", "/static/none.css")
    for name in ("Content-Security-Policy", "Cross-Origin-Opener-Policy", "Cross-Origin-Resource-Policy"):
        assert (name in answer.headers) == from_app, name
    assert len(answer.headers["X-Request-Id"]) == 32
    assert answer.headers["Server"] == "nginx"


def test_headers_of_the_app_take_precedence(echo: Web) -> None:
    answer = echo.ask("/own-headers")
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'"
    assert answer.headers["X-Request-Id"] != "forged"


def test_forwarded_headers_of_clients_are_ignored(echo: Web) -> None:
    forged = {"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "forged.test"}
    seen = echo.ask("/", headers=forged | {"X-Request-Id": "forged"}).json
    assert seen["client"] != "198.51.100.7"
    assert seen["url"] == f"https://{echo.domain}/"
    assert seen["without_proxy_fix"] == {name: seen[name] for name in ("client", "scheme", "host")}
    assert seen["headers"]["X-Request-Id"] != "forged"


def test_static_files_are_compressed_and_cached(machine: Machine, site: Web) -> None:
    page = site.ask("/").text
    link = page.split('rel="stylesheet" href="')[1].split('"')[0].replace("&amp;", "&")
    assert f"?v={machine.live('blueoctopus')}" in link
    plain = site.ask(link)
    assert plain.headers["Cache-Control"] == "max-age=31536000"
    sizes = {}
    for encoding in ("br", "gzip"):
        answer = site.raw(link, encoding)
        assert answer.getheader("Content-Encoding") == encoding
        sizes[encoding] = len(answer.read())
    assert sizes["br"] < sizes["gzip"] < len(plain.text)
    assert site.ask("/static/style.css").headers["Cache-Control"] == "max-age=300"


def test_brotli_compresses_the_page_better_than_gzip(site: Web) -> None:
    sizes = {encoding: len(site.raw("/", encoding).read()) for encoding in ("br", "gzip")}
    print(sizes)
    assert sizes["br"] <= 0.85 * sizes["gzip"]


def test_response_to_a_cross_site_request_is_not_compressed(site: Web) -> None:
    own = site.raw("/", "gzip", Referer=f"https://{site.domain}/")
    foreign = site.raw("/", "gzip", Referer="https://stranger.test/")
    secretive = site.raw("/", "gzip", **{"Sec-Fetch-Site": "cross-site"})
    assert secretive.getheader("Content-Encoding") is None
    assert own.getheader("Content-Encoding") == "gzip"
    assert foreign.getheader("Content-Encoding") is None
    assert b"Hello from Flask server" in foreign.read()


def test_form_sent_from_another_site_arrives_complete(echo: Web) -> None:
    answer = echo.ask("/", "POST", {"Referer": "https://stranger.test/"}, body=b"x" * 5000)
    assert answer.status == 200
    assert answer.json["headers"]["Content-Length"] == "5000"


def burst(web: Web, path: str, count: int) -> list[Answer]:
    """Send many requests from one client, as fast as possible."""
    connection = web.connect(web.domain)
    answers = []
    for _ in range(count):
        connection.request("GET", path, headers={"Host": web.domain})
        response = connection.getresponse()
        answers.append(Answer(response.status, response.headers, response.read().decode()))
    return answers


def test_one_client_is_limited_and_static_files_and_other_apps_are_not(site: Web, echo: Web) -> None:
    answers = burst(site, "/healthz", 580)
    refused = [answer for answer in answers if answer.status == 429]
    assert len([answer for answer in answers if answer.status == 200]) >= 300
    assert refused
    assert refused[0].headers["Retry-After"] == "10"
    assert refused[0].headers["X-Frame-Options"] == "SAMEORIGIN"
    assert "Too many requests" in refused[0].text
    # The limit applies neither to static files nor to another app.
    assert {answer.status for answer in burst(site, "/static/style.css", 300)} == {200}
    assert {answer.status for answer in burst(echo, "/", 300)} == {200}


# Runs on the machine. Arguments: address and host name of the site; then pairs of a client address and its number of
# requests. Prints the statuses for each client address.
ASK_FROM = """
import http.client, json, socket, ssl, sys
trusting = ssl.create_default_context()
trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
target, name, *askers = sys.argv[1:]
said = []
for source, count in zip(askers[::2], askers[1::2]):
    connection = http.client.HTTPConnection(name)
    plain = socket.create_connection((target, 443), source_address=(source, 0))
    connection.sock = trusting.wrap_socket(plain, server_hostname=name)
    seen = set()
    for _ in range(int(count)):
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        answer.read()
        seen.add(answer.status)
    said.append(sorted(seen))
print(json.dumps(said))
"""


@pytest.mark.on("web13")
@pytest.mark.parametrize(
    ("client", "neighbour", "stranger"),
    [
        ("2001:db8:7:7::5", "2001:db8:7:7:a:b:c:d", "2001:db8:7:8::5"),
        ("2001:db8::5", "2001:db8::b:c:d", "2001:db8:1::5"),
    ],
)
def test_limits_apply_to_the_whole_network_of_an_ipv6_client(
    machine: Machine, site: Web, client: str, neighbour: str, stranger: str
) -> None:
    # All clients in one run, as the limit counts requests per second.
    asking = f"python3 -c '{ASK_FROM}' {client} {site.domain} {client} 580 {neighbour} 20 {stranger} 20"
    with machine.host.sudo():
        for address in (client, neighbour, stranger):
            machine.host.run_expect([0], f"ip address replace {address}/128 dev lo")
        try:
            of_client, of_neighbour, of_stranger = json.loads(machine.host.check_output(asking))
        finally:
            for address in (client, neighbour, stranger):
                machine.host.run_expect([0], f"ip address delete {address}/128 dev lo")
    assert of_client == [200, 429]
    assert 429 in of_neighbour
    assert of_stranger == [200]


def test_error_page_of_nginx_describes_the_problem(machine: Machine, echo: Web) -> None:
    unit = f"echo@{machine.live('echo')}"
    with machine.host.sudo():
        machine.host.run_expect([0], f"systemctl stop {unit}.service {unit}.socket")
        try:
            answer = echo.ask("/")
        finally:
            machine.host.run_expect([0], f"systemctl start {unit}.socket {unit}.service")
    assert answer.status == 502
    assert "This site has a problem at the moment" in answer.text
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert echo.ask("/_error/style.css").status == 200
    assert echo.ask("/_error/502.html").status == 404
    wait_for(lambda: echo.ask("/").status == 200, 10, "the app responds")


def test_access_log_describes_a_request(machine: Machine, echo: Web) -> None:
    answer = echo.ask("/?looked=for", headers={"User-Agent": 'a "quoted" \\ one'})
    wanted = answer.headers["X-Request-Id"]
    assert answer.json["headers"]["X-Request-Id"] == wanted

    def logged() -> Any:
        with machine.host.sudo():
            lines = machine.host.check_output("tail -n 200 /var/log/nginx/access.log").splitlines()
        return next((json.loads(line) for line in lines if wanted in line), None)

    entry = wait_for(logged, 5, "the log contains the request")
    assert entry["release"] == machine.live("echo")
    assert (entry["uri"], entry["status"], entry["host"]) == ("/?looked=for", 200, echo.domain)
    assert entry["user_agent"] == 'a "quoted" \\ one'
    assert float(entry["upstream_seconds"]) >= 0
    with machine.host.sudo():
        machine.host.run_expect([0], "logrotate --debug /etc/logrotate.d/nginx")
        assert machine.host.file("/var/log/nginx/access.log").mode == 0o640


def test_all_http_2_requests_succeed(echo: Web) -> None:
    command = [
        "h2load",
        "-n",
        "400",
        "-c",
        "8",
        "-m",
        "10",
        f"--connect-to={echo.address}:443",
        f"https://{echo.domain}/",
    ]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Application protocol: h2" in shown, shown
    assert "400 succeeded, 0 failed, 0 errored" in shown, shown


def test_http_3_requests_succeed_where_nginx_supports_it(machine: Machine, site: Web, ca: Any) -> None:
    if machine.variables["machine_debian"] < 13:
        assert "Alt-Svc" not in site.ask("/").headers
        return
    assert site.ask("/").headers["Alt-Svc"] == 'h3=":443"; ma=86400'
    urls = f"https://{site.domain}/static/style.css?v=[1-100]"
    once = "%{http_code} %{http_version}\\n"
    resolve = f"--resolve {site.domain}:443:{site.address}"
    shown = ca.check_output(f"curl -sk --http3-only {resolve} -o /dev/null -w '{once}' '{urls}'")
    assert shown.split("\n") == ["200 3"] * 100


@pytest.mark.on("web12")
@pytest.mark.parametrize("attack", ["-H", "-B", "-X"], ids=["headers", "body", "read"])
def test_slow_clients_do_not_block_other_clients(site: Web, echo: Web, ca: Any, attack: str) -> None:
    command = f"slowhttptest {attack} -c 1000 -r 300 -i 5 -l 9 -p 2 -u https://{echo.domain}/static/app.1a2b3c4d.css"
    ca.run_expect([0], f"systemd-run --quiet --collect --unit=slow {command}")
    try:
        time.sleep(4)
        seconds = []
        for _ in range(20):
            begun = time.monotonic()
            assert site.ask("/static/style.css").status == 200
            seconds.append(time.monotonic() - begun)
        assert int(ca.check_output("ss -Htn state established dport = :443 | wc -l")) > 50
    finally:
        ca.run("systemctl stop slow")
    assert max(seconds) < 1, seconds


def test_firewall_allows_only_ssh_and_the_web(machine: Machine) -> None:
    with machine.host.sudo():
        shown = machine.host.check_output("ufw status")
    # HTTP/3 uses UDP, and only nginx of Debian 13 supports it.
    http3 = {"443/udp"} if machine.name == "web13" else set()
    assert set(re.findall(r"^[\d:]+/\w+", shown, re.MULTILINE)) == {"22/tcp", "80/tcp", "443/tcp"} | http3


@pytest.mark.on("web13")
def test_browser_reports_no_problem(site: Web, root: Path, tmp_path: Path) -> None:
    url = f"http://{site.domain}/"  # redirects to HTTPS
    page = browse(site, url, "Hello from Flask server", tmp_path, root=root)
    assert "Hello from Flask server" in page.text
    assert (page.violations, page.failed) == ([], [])


@pytest.mark.on("web13")
def test_browser_enforces_the_content_security_policy(echo: Web, root: Path, tmp_path: Path) -> None:
    page = browse(echo, "/inline", "before", tmp_path, root=root)
    assert "before" in page.text
    assert "after" not in page.text
    assert "Content Security Policy" in "".join(page.violations)
