"""Run the configuration of nginx with the sites of some apps, and a small app behind them."""

from __future__ import annotations

import contextlib
import functools
import http.client
import itertools
import os
import random
import re
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml
from programs import find

NGINX = find("nginx")
MODULES = Path("/etc/nginx/modules-enabled")
needs_nginx = pytest.mark.needs("nginx")
Render = Callable[..., str]
DOMAIN = "shop.example"
BALANCED = "webserver.invalid"  # balancer_server_name
# nginx's own configuration, by file name, with numbers in the place of the ports.
MAIN: dict[str, str] = {}
HTTP, HTTPS, STATUS = 70080, 70443, 70114
HASH = "$6$salt$IxDD3jeSOb5eB1CX5LBsqZFVkJdido3OUILO5Ifz5iwMuTS4XMS130MTSuDDl3aCI6WouIL9AjRbLCelDCy.g."  # password
# What the app answers: the headers of a response, by path. Other paths get none of their own.
ANSWERS = {
    "/own": {
        "Content-Security-Policy": "default-src 'none'",
        "Cross-Origin-Opener-Policy": "unsafe-none",
        "X-Frame-Options": "DENY",
    },
    "/download/a.txt": {"X-Accel-Redirect": "/private/a.txt", "Content-Type": "text/plain"},
    "/download/page.html": {"X-Accel-Redirect": "/private/page.html", "Content-Type": "text/html"},
    "/download/shown.html": {
        "X-Accel-Redirect": "/private/page.html",
        "Content-Type": "text/html",
        "Content-Disposition": "inline",
        "Content-Security-Policy": "default-src 'self'",
        "X-Frame-Options": "DENY",
    },
    "/download/link": {"X-Accel-Redirect": "/private/link", "Content-Type": "text/plain"},
}
# The paths that the app does not answer with 200, and their statuses.
STATUSES: dict[str, int] = {}


class Backend(BaseHTTPRequestHandler):
    """The app: it returns its path, the prefix and its own headers."""

    def do_GET(self) -> None:
        if self.path.startswith("/slow/"):
            time.sleep(0.2)
        body = f"app: {self.path}".encode()
        self.send_response(STATUSES.get(self.path, 200))
        self.send_header("X-Host-Seen", self.headers["Host"])
        for name, value in ({"Content-Type": "text/html"} | ANSWERS.get(self.path.partition("?")[0], {})).items():
            self.send_header(name, value)
        self.send_header("X-Release", "r1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def address_string(self) -> str:
        return "nginx"

    def log_message(self, *_: Any) -> None:
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 256


@dataclass
class Answer:
    """A response, with its headers in lower case."""

    status: int
    headers: dict[str, str]
    text: str


class Site:
    """The configuration of nginx with the sites of some apps, in folders of its own.

    Args:
        render: the fixture.
        folder: an empty folder that other users can enter.
    """

    def __init__(self, render: Render, folder: Path) -> None:
        self.render, self.folder = render, folder
        self.root, self.port, self.https_port = folder / "srv/shop", free_port(), free_port()
        self.status_port = free_port()
        self.live = self.root / "live"
        for path in (self.live / "public", self.root / "data", folder / "log", folder / "nginx/conf.d"):
            path.mkdir(parents=True)
        self.running: subprocess.Popen[bytes] | None = None
        self.settings: dict[str, Any] = {}  # arguments of the role nginx

    def write(self, *apps: dict[str, Any]) -> None:
        """Write the configuration; with HTTPS if the first app has `tls`."""
        if not (self.folder / "nginx/nginx.conf").exists():
            self.write_main()
        if apps[0].get("tls", "none") != "none" and not (self.folder / "certificate").exists():
            self.certify()
        for old in (*self.folder.glob("nginx/sites/*"), *self.folder.glob("nginx/paths/*/*")):
            old.unlink()
        for app in apps:
            self.write_site({"name": "shop", "domains": [DOMAIN], "tls": "none"} | app)

    def write_site(self, app: dict[str, Any]) -> None:
        """Write the site of one app."""
        name, live = app["name"], self.folder / "srv" / app["name"] / "live"
        if not live.exists():
            live.mkdir(parents=True)
            (live / "socket").symlink_to(self.live / "socket")
        values = {
            "app_http_port": self.port,
            "app_https_port": self.https_port,
            "app_certificate": f"{self.folder}/certificate/fullchain.pem",
            "app_certificate_key": f"{self.folder}/certificate/privkey.pem",
            "app_certificate_marker": f"{self.folder}/certificate/real",
            "app_health_name": f"{name}.{BALANCED}",
            "__app_root": str(live.parent),
        }
        self.put_configuration(f"sites/{name}.conf", self.render("app", "site.conf.j2", app, **values))
        if app.get("path", "/") != "/":
            locations = self.render("app", "site-path.conf.j2", app, **values)
            self.put_configuration(f"paths/{name}.conf/{app['domains'][0]}.conf", locations)

    def write_main(self) -> None:
        """Write everything but the sites. All tests without settings share one rendering."""
        files = {} if self.settings else MAIN
        if not files:
            values = self.settings | {"nginx_challenge_folder": "/srv/challenges"}
            values["__nginx_has_http2_directive"] = nginx_version() >= (1, 25, 1)
            ports = {"nginx_http_port": HTTP, "nginx_https_port": HTTPS, "nginx_status_port": STATUS}
            main = self.render("nginx", "nginx.conf.j2", **ports, **values)
            files["nginx.conf"] = re.sub(r"^error_log syslog.*\n", "", main, flags=re.MULTILINE)
            for name in ("challenge.conf", "errors.conf", "error-pages.conf"):
                files[f"snippets/{name}"] = self.render("nginx", f"{name}.j2", **values)
            files.update(yaml.safe_load(self.render("nginx", "pages.yml.j2")))
        own: dict[Any, Any] = {HTTP: self.port, HTTPS: self.https_port, STATUS: self.status_port}
        own |= {"/run/nginx.pid": self.folder / "nginx.pid", "/var/log/nginx": self.folder / "log"}
        own |= {"/srv/challenges": self.folder / "challenges", "/etc/nginx/pages": self.folder / "nginx/pages"}
        for name, text in files.items():
            for old, new in own.items():
                text = text.replace(str(old), str(new))
            self.put_configuration(name, text)
        shutil.copy("/etc/nginx/mime.types", self.folder / "nginx")
        if MODULES.is_dir():
            (self.folder / "nginx/modules-enabled").symlink_to(MODULES)

    def put_configuration(self, name: str, text: str) -> None:
        if not list(MODULES.glob("*brotli*")):
            text = re.sub(r"^ *brotli.*\n", "", text, flags=re.MULTILINE)
        path = self.folder / "nginx" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def certify(self) -> None:
        """Make a certificate."""
        folder = self.folder / "certificate"
        folder.mkdir()
        command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        command += ["-subj", f"/CN={DOMAIN}", "-out", f"{folder}/fullchain.pem", "-keyout", f"{folder}/privkey.pem"]
        subprocess.run(command, check=True, capture_output=True)

    def check(self, *apps: dict[str, Any]) -> str:
        """What nginx says against the configuration; empty when it accepts it."""
        self.write(*apps)
        done = subprocess.run(self.command("-t"), capture_output=True, text=True)
        warnings = [line for line in done.stderr.splitlines() if "[warn]" in line and '"user" directive' not in line]
        return done.stderr if done.returncode or warnings else ""

    def command(self, *options: str) -> list[str]:
        return [str(NGINX), *options, "-c", str(self.folder / "nginx/nginx.conf"), "-e", str(self.folder / "log/error")]

    def start(self, *apps: dict[str, Any]) -> None:
        problem = self.check(*apps)
        assert not problem, problem
        self.running = subprocess.Popen(self.command("-g", "daemon off;"))
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as connection:
                if connection.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError((self.folder / "log/error").read_text())

    def switch(self, *apps: dict[str, Any]) -> None:
        """Replace the sites while nginx runs."""
        assert self.running
        problem = self.check(*apps)
        assert not problem, problem
        self.running.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        if self.running:
            self.running.terminate()
            self.running.wait(10)

    def ask(self, path: str, source: str = "", body: bytes = b"", secure: bool = False, **headers: str) -> Answer:
        """Request a path; with a body, by POST. nginx can tell its own host from the address `source` of the client."""
        address = own_address() if source != "127.0.0.1" else source
        connection = http.client.HTTPConnection(address, self.port, timeout=10)
        if secure:
            trusting = ssl._create_unverified_context()
            connection = http.client.HTTPConnection(address, self.https_port, timeout=10)
            plain = socket.create_connection((address, self.https_port), 10)
            connection.sock = trusting.wrap_socket(plain, server_hostname=DOMAIN)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST" if body else "GET", path, body or None, {"Host": DOMAIN} | names)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        assert len(found) == len(response.getheaders()), response.getheaders()  # none twice
        return Answer(response.status, found, response.read().decode())

    def put(self, name: str, text: str = "content") -> None:
        """Put a file into the app's data."""
        path = self.root / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def put_blog(self, name: str, text: str = "content") -> None:
        """Put a file into the live release of the app my-blog."""
        live = self.folder / "srv/my-blog/live"
        if not live.exists():
            live.mkdir(parents=True)
            (live / "socket").symlink_to(self.live / "socket")
        path = live / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@functools.cache
def nginx_version() -> tuple[int, ...]:
    """The version of nginx, such as (1, 26, 3)."""
    shown = subprocess.run([str(NGINX), "-v"], capture_output=True, text=True).stderr
    return tuple(int(number) for number in re.findall(r"\d+", shown)[:3])


@functools.cache
def ports() -> Iterator[int]:
    """The ports that this process may use, again and again, from a random one on.

    They are below those that the kernel gives to outgoing connections, and each process of pytest-xdist has its own.
    """
    first, begin = 20_000 + 1_500 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8), random.randrange(1_500)
    return itertools.cycle(first + (begin + number) % 1_500 for number in range(1_500))


def free_port() -> int:
    """A free port that nobody else takes meanwhile, and that this function has not returned in the last 1,499 calls."""
    while True:
        port = next(ports())
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("", port))
            return port


def own_address() -> str:
    """An address of this host that is not 127.0.0.1: a request to it comes from that address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this host has no address but 127.0.0.1")
        return str(probe.getsockname()[0])


@contextlib.contextmanager
def temporary_site(render: Render) -> Iterator[Site]:
    """A site that does not run yet; its app does."""
    folder = Path(tempfile.mkdtemp(prefix="site-", dir="/tmp"))
    folder.chmod(0o755)
    new = Site(render, folder)
    with Server(str(new.live / "socket"), Backend) as server:
        (new.live / "socket").chmod(0o666)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield new
        finally:
            new.stop()
            server.shutdown()
            shutil.rmtree(folder)
