"""Run HAProxy with the configuration of the role balancer, and small webservers behind it."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

from ansible_collections.blueoctopus.site.plugins.modules.private_certificate import Certificates
from nginx_site import BALANCED, Answer, free_port, own_address
from programs import find

HAPROXY = find("haproxy")
Render = Callable[..., str]
DOMAIN = "shop.example"
HEALTH = "/healthz"


class Webserver:
    """A webserver that records its requests.

    Args:
        name: its name.
        context: its TLS settings; none for plain HTTP.
    """

    def __init__(self, name: str, context: ssl.SSLContext | None = None) -> None:
        self.name, self.healthy, self.silent, self.status, self.release = name, True, False, 200, ""
        self.seconds = 0.0  # that each response takes
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.checks: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.rfile.read(int(headers.get("content-length", 0)))
                time.sleep(outer.seconds)
                is_check = headers["host"].endswith(f".{BALANCED}") or self.path == HEALTH  # or a probe
                if is_check:
                    outer.checks.append(headers)
                else:
                    outer.seen.append((self.command, self.path, headers))
                    if outer.silent:
                        self.close_connection = True
                        return
                body = b"" if self.command == "HEAD" else outer.name.encode()
                self.send_response(500 if is_check and not outer.healthy else 200 if is_check else outer.status)
                self.send_header("Content-Length", str(len(outer.name)))
                if headers.get("x-forwarded-for") == "127.0.0.1":
                    self.send_header("X-Release", outer.release)
                self.end_headers()
                self.wfile.write(body)

            do_HEAD = do_POST = do_PUT = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def finish_request(self, request: Any, client_address: Any) -> None:
                with contextlib.suppress(OSError):
                    served = context.wrap_socket(request, server_side=True) if context else request
                    super().finish_request(served, client_address)
                    served.close()

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Balancer:
    """HAProxy with a folder of its own.

    Args:
        render: the fixture.
        program: the program of the role certificate, which creates the certificate of the balancer.
        folder: an empty folder.
    """

    def __init__(self, render: Render, program: ModuleType, folder: Path) -> None:
        self.render, self.program, self.folder = render, program, folder
        self.http_port, self.https_port, self.stats_port, self.challenge_port = (free_port() for _ in range(4))
        self.running: subprocess.Popen[bytes] | None = None
        self.webservers: list[Webserver] = []
        for name in ("certificates", "authorities", "run"):
            (folder / name).mkdir()
        chain, key = program.self_signed([DOMAIN, f"www.{DOMAIN}"], 1)
        (folder / "certificates/shop.pem").write_text(chain + key)

    def add(self, name: str, tls: bool = True, domain: str = BALANCED) -> Webserver:
        """Start a webserver; the certificate of one with TLS is for `domain`."""
        context = None
        if tls:
            private = Certificates(self.folder / name, [domain])
            private.create()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(private.certificate, private.key)
            self.trust(name, private.ca.read_text())
        self.webservers.append(Webserver(name, context))
        return self.webservers[-1]

    def trust(self, name: str, root: str) -> None:
        """Make a root certificate the authority of a webserver."""
        folder = self.folder / "authorities" / name
        folder.mkdir(exist_ok=True)
        (folder / "root.pem").write_text(root)

    def site(self, *webservers: Webserver, **values: Any) -> dict[str, Any]:
        """A site for `balancer_sites`, on these webservers or on all."""
        servers = [
            {"name": web.name, "address": "127.0.0.1", "port": web.port} for web in webservers or self.webservers
        ]
        site = {"name": "shop", "domains": [DOMAIN], "timeout": 60, "sticky": False, "tls": True}
        return {**site, "servers": servers} | values

    def configuration(self, *sites: dict[str, Any], **values: Any) -> str:
        """The configuration, with the folders and ports of this balancer, and more health checks a second."""
        own: dict[str, Any] = {"balancer_http_port": self.http_port, "balancer_https_port": self.https_port}
        own |= {"balancer_stats_port": self.stats_port, "balancer_certificates": f"{self.folder}/certificates"}
        own |= {
            "__balancer_challenge_port": self.challenge_port,
            "__balancer_authorities": f"{self.folder}/authorities",
            "__balancer_disabled_before": {"stdout_lines": []},
        }
        text = self.render("balancer", "haproxy.cfg.j2", balancer_sites=list(sites), **own | values)
        for old, new in {
            "    user haproxy\n    group haproxy\n    chroot /var/lib/haproxy\n": "",
            "maxconn 8000": "maxconn 500",
            "/run/haproxy": f"{self.folder}/run",
            "inter 2s fastinter 1s": "inter 300ms fastinter 300ms",
        }.items():
            assert old in text or not sites
            text = text.replace(old, new)
        return text

    def check(self, *sites: dict[str, Any], **values: Any) -> str:
        """What HAProxy says about the configuration; empty when it accepts it without a warning."""
        path = self.folder / "haproxy.cfg"
        path.write_text(self.configuration(*sites, **values))
        done = subprocess.run([str(HAPROXY), "-c", "-q", "-f", path], capture_output=True, text=True)
        return done.stdout + done.stderr + (f"status {done.returncode}" if done.returncode else "")

    def start(self, *sites: dict[str, Any], **values: Any) -> None:
        assert self.check(*sites, **values) == ""
        self.running = subprocess.Popen([str(HAPROXY), "-db", "-f", self.folder / "haproxy.cfg"])
        self.wait_for(lambda: self.ask_stats("/alive").status == 200)

    def stop(self) -> None:
        if self.running:
            self.running.terminate()
            self.running.wait(10)
        for web in self.webservers:
            web.stop()

    def states(self) -> dict[str, str]:
        """The state of each webserver of the site, such as UP or DOWN."""
        lines = self.ask_stats("/;csv").text.splitlines()
        rows = [line.split(",") for line in lines if line.startswith("shop,")]
        return {row[1]: row[17].split()[0] for row in rows if row[1] != "BACKEND"}

    def wait_for_checks(self) -> None:
        """Wait until every webserver has had health checks."""
        self.wait_for(lambda: all(len(web.checks) > 3 for web in self.webservers))

    @staticmethod
    def wait_for(what: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if what():
                    return
            time.sleep(0.05)
        raise AssertionError("not true within 20 s")

    def ask_stats(self, path: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.stats_port, timeout=10)
        return self.answer(connection, "GET", path, {})

    def ask(
        self, path: str = "/", method: str = "GET", host: str = DOMAIN, secure: bool = True, **headers: str
    ) -> Answer:
        """Send one request from the address of this host; the headers have _ for -."""
        address = own_address()
        connection = http.client.HTTPConnection(address, self.https_port if secure else self.http_port, timeout=10)
        if secure:
            plain = socket.create_connection((address, self.https_port), 10)
            connection.sock = ssl._create_unverified_context().wrap_socket(plain, server_hostname=host)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.answer(connection, method, path, {"Host": host} | named)

    @staticmethod
    def answer(connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str]) -> Answer:
        with contextlib.closing(connection):
            connection.request(method, path, b"x" if method in ("POST", "PUT") else None, headers)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read().decode())


@contextlib.contextmanager
def temporary_balancer(render: Render, program: ModuleType) -> Iterator[Balancer]:
    """A balancer that does not run yet."""
    folder = Path(tempfile.mkdtemp(prefix="balancer-", dir="/tmp"))
    new = Balancer(render, program, folder)
    try:
        yield new
    finally:
        new.stop()
        shutil.rmtree(folder)
