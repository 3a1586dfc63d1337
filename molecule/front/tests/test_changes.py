"""Changes of a live site: maintenance mode, passwords, removed and new apps, streaming, headers, files."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from testing import Machine, Run, Web, wait_for

testinfra_hosts = ["ansible://web13"]
Play = Callable[..., Run]
ChangedApp = Callable[..., list[str]]


def test_maintenance_affects_one_app_and_exempts_the_given_addresses(
    machine: Machine, play: Play, changed_app: ChangedApp, site: Web, echo: Web, ca: Any, authority: Any
) -> None:
    let_in = changed_app("echo", maintenance_allow=[authority.address])
    assert play("deploy", "-e", "app=echo", *let_in).code == 0
    assert play("maintenance", "-e", "app=echo", "-e", "state=on").recap(machine.name)["changed"] == 1
    try:
        closed = wait_for(lambda: (a := echo.ask("/")).status == 503 and a, 5, "maintenance mode is on")
        assert closed.headers["Retry-After"] == "60"
        assert "under maintenance" in closed.text
        assert echo.ask("/static/app.1a2b3c4d.css").status == 503
        assert site.ask("/").status == 200
        resolve = f"--resolve {echo.domain}:443:{echo.address}"
        shown = ca.check_output(f"curl -sk -o /dev/null -w %{{http_code}} {resolve} https://{echo.domain}/")
        assert shown == "200"
        # The health check of a deploy also works in maintenance mode.
        run = play("deploy", "-e", "app=echo", *changed_app("echo", environment={"GREETING": machine.name}))
        assert run.code == 0, run.output
        assert echo.ask("/").status == 503
        assert play("maintenance", "-e", "app=echo", "-e", "state=on").recap(machine.name)["changed"] == 0
    finally:
        assert play("maintenance", "-e", "app=echo", "-e", "state=off").recap(machine.name)["changed"] == 1
    wait_for(lambda: echo.ask("/").status == 200, 5, "maintenance mode is off")


# Of the word "password".
HASH = "$6$salt$IxDD3jeSOb5eB1CX5LBsqZFVkJdido3OUILO5Ifz5iwMuTS4XMS130MTSuDDl3aCI6WouIL9AjRbLCelDCy.g."


def test_basic_auth_requires_a_password_and_its_hash_is_not_shown(
    machine: Machine, play: Play, changed_app: ChangedApp, echo: Web
) -> None:
    run = play("deploy", "--diff", "-vv", "-e", "app=echo", *changed_app("echo", basic_auth={"staging": HASH}))
    assert run.code == 0, run.output
    assert HASH[10:40] not in run.output
    assert echo.ask("/").status == 401
    login = base64.b64encode(b"staging:password").decode()
    assert echo.ask("/", headers={"Authorization": f"Basic {login}"}).status == 200
    with machine.host.sudo():
        file = machine.host.file(f"/srv/echo/releases/{machine.live('echo')}/htpasswd")
        assert (file.mode, file.user, file.group) == (0o640, "root", "www-data")


def test_site_and_certificate_of_a_removed_app_are_removed(
    machine: Machine, play: Play, changed_app: ChangedApp, echo: Web, site: Web, tmp_path: Path
) -> None:
    everything = yaml.safe_load(Path(changed_app("echo")[1].removeprefix("@")).read_text())
    only_first = tmp_path / "fewer.yml"
    only_first.write_text(json.dumps({"apps": [app for app in everything["apps"] if app["name"] != "echo"]}))
    run = play("provision", "-e", f"@{only_first}")
    assert run.code == 0, run.output
    with pytest.raises(ssl.SSLError):
        echo.ask("/")
    assert site.ask("/").status == 200
    # Its certificate is not renewed any more, and deleted with the app only.
    with machine.host.sudo():
        assert machine.host.check_output("ls /etc/certificates/*.json") == "/etc/certificates/blueoctopus.json"
        assert machine.host.file("/var/lib/certificates/echo/current/privkey.pem").exists
    assert play("provision", "-e", f"@{only_first}").recap(machine.name)["changed"] == 0
    run = play("remove", "-e", "app=echo", "-e", f"@{only_first}")
    assert run.code == 0, run.output
    with machine.host.sudo():
        assert machine.host.check_output("find /var/lib/certificates -name 'echo*'") == ""
        assert machine.host.file("/var/lib/certificates/blueoctopus/current/privkey.pem").exists
    assert play("deploy").code == 0
    assert echo.ask("/").status == 200
    assert replace(echo, domain=site.domain).ask("/").status == 200


def test_refused_nginx_configuration_is_reported_with_the_message_of_nginx_and_changes_nothing(
    machine: Machine, play: Play, changed_app: ChangedApp, echo: Web
) -> None:
    with machine.host.sudo():
        before = machine.host.check_output("md5sum /etc/nginx/sites/echo.conf")
        machine.host.run_expect([0], "echo 'msie_padding perhaps;' > /etc/nginx/conf.d/own.conf")
        try:
            run = play("deploy", "-e", "app=echo", *changed_app("echo", headers={"X-Own": "new"}))
        finally:
            machine.host.run_expect([0], "rm /etc/nginx/conf.d/own.conf")
        assert machine.host.check_output("md5sum /etc/nginx/sites/echo.conf") == before
    assert run.code != 0
    assert 'invalid value "perhaps" in "msie_padding" directive' in run.output, run.output
    assert "X-Own" not in echo.ask("/").headers


def test_streaming_websockets_headers_and_files_work_where_they_are_enabled(
    machine: Machine, play: Play, changed_app: ChangedApp, echo: Web
) -> None:
    keys = {
        "streaming": True,
        "websockets": True,
        "headers": {"X-Own": "new", "X-Frame-Options": ""},
        "static": [{"url": "/static/", "path": "static"}, {"url": "/flask/", "path": "package:flask/json"}],
        "media": {"url": "/media/"},
        "private_files": {"url": "/private/"},
        "redirects": [{"from": "/old", "to": "/inline"}],
        "nginx_extra": "location = /ping { return 200 pong; }",
    }
    assert first_drop_after(echo) > 1.5  # buffered
    run = play("deploy", "-e", "app=echo", *changed_app("echo", **keys))
    assert run.code == 0, run.output

    assert first_drop_after(echo) < 0.9
    assert chat(echo, b"hello") == b"you said hello"
    answer = echo.ask("/")
    assert (answer.status, answer.headers["X-Own"]) == (200, "new")
    assert "X-Frame-Options" not in answer.headers
    moved = echo.ask("/old?a=b")
    assert (moved.status, moved.headers["Location"]) == (301, f"https://{echo.domain}/inline?a=b")
    assert echo.ask("/ping").text == "pong"

    assert echo.ask("/static/app.1a2b3c4d.css").status == 200
    assert "def " in echo.ask("/flask/tag.py").text
    for path in ("media/a.html", "private/b.txt"):
        written = echo.ask(f"/write?path=/srv/echo/data/{path}", "POST")
        assert written.status == 200, written.text
    uploaded = echo.ask("/media/a.html")
    assert (uploaded.status, uploaded.text) == (200, "written by the app\n")
    assert uploaded.headers["Content-Disposition"] == "attachment"
    assert uploaded.headers["X-Content-Type-Options"] == "nosniff"
    assert echo.ask("/private/b.txt").status == 404
    assert echo.ask("/download").text == "written by the app\n"
    with machine.host.sudo():
        data = machine.host.file("/srv/echo/data")
        assert (data.mode, data.user, data.group) == (0o750, "echo", "echo")
        assert machine.host.run("runuser -u www-data -- ls /srv/echo/data").rc != 0

    assert play("deploy", "-e", "app=echo", *changed_app("echo", **keys)).recap(machine.name)["changed"] == 0
    missing = [{"url": "/x/", "path": "package:flask/nothing"}]
    run = play("deploy", "-e", "app=echo", *changed_app("echo", static=missing))
    assert run.code != 0
    assert "static: there is no folder package:flask/nothing" in run.output


def first_drop_after(web: Web) -> float:
    """Seconds until the first part of a slow response has arrived."""
    begun = time.monotonic()
    web.raw("/drip", "identity").read(2)
    return time.monotonic() - begun


def chat(web: Web, words: bytes) -> bytes:
    """Send a message over a websocket and return the response; see RFC 6455."""
    assert web.tls
    with web.tls.wrap_socket(socket.create_connection((web.address, 443)), server_hostname=web.domain) as tls:
        key = base64.b64encode(os.urandom(16)).decode()
        tls.sendall(
            f"GET /chat HTTP/1.1\r\nHost: {web.domain}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        stream = tls.makefile("rb")
        assert b" 101 " in stream.readline()
        while stream.readline().strip():
            pass
        mask = os.urandom(4)
        masked = bytes(c ^ mask[i % 4] for i, c in enumerate(words))
        tls.sendall(bytes([0x81, 0x80 | len(words)]) + mask + masked)
        _, length = stream.read(2)
        return stream.read(length)


def test_two_apps_share_a_domain(play: Play, changed_app: ChangedApp, site: Web, echo: Web) -> None:
    run = play("deploy", "-e", "app=echo", *changed_app("echo", domains=[site.domain], path="/echo/"))
    assert run.code == 0, run.output
    seen = site.ask("/echo/").json
    assert seen["url"] == f"https://{site.domain}/echo/"
    assert site.ask("/echo/static/app.1a2b3c4d.css").status == 200
    assert "Hello from Flask server" in site.ask("/").text
    with pytest.raises(ssl.SSLError):
        echo.ask("/")
    # The app that has the domain is deployed and rolled back on its own.
    assert play("deploy", "-e", "app=blueoctopus", *changed_app("blueoctopus", robots=False)).code == 0
    assert site.ask("/echo/").status == 200
    assert site.ask("/robots.txt").text == "User-agent: *\nDisallow: /\n"
    assert site.ask("/").headers["X-Robots-Tag"] == "noindex"
    assert play("rollback", "-e", "app=blueoctopus").code == 0
    assert site.ask("/echo/").status == 200
    assert "X-Robots-Tag" not in site.ask("/").headers
    # Back to a domain of its own.
    assert play("rollback", "-e", "app=echo").code == 0
    assert echo.ask("/").status == 200
    assert site.ask("/echo/").status == 404
    assert play("deploy").code == 0


def test_check_mode_reports_a_new_site_and_creates_none(
    machine: Machine, play: Play, changed_app: ChangedApp, echo: Web, tmp_path: Path
) -> None:
    everything = yaml.safe_load(Path(changed_app("echo")[1].removeprefix("@")).read_text())
    another = everything["apps"][1] | {"name": "another", "domains": [f"new.{machine.name}.test"]}
    more = tmp_path / "more.yml"
    more.write_text(json.dumps({"apps": [*everything["apps"], another]}))
    run = play("deploy", "--check", "--diff", "-e", f"@{more}", "-e", "app=another")
    assert run.code == 0, run.output
    assert run.recap(machine.name)["changed"] == 4  # certificate, release, site, switch
    with machine.host.sudo():
        assert not machine.host.file("/etc/nginx/sites/another.conf").exists
        assert not machine.host.file("/etc/certificates/another.json").exists
    assert echo.ask("/").status == 200
