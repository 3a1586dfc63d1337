"""A visitor of a web app: cookies, forms, uploads, redirects, a websocket, and pages in a browser."""

from __future__ import annotations

import base64
import contextlib
import http.cookies
import json
import os
import re
import socket
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

from testing import TIMEOUT, Answer, Web

REDIRECTS = 10
FORM = "application/x-www-form-urlencoded"
CSRF = re.compile(r"<(?:input|meta)\b[^>]*\bname=\"csrf[-_]token\"[^>]*?\b(?:value|content)=\"([^\"]+)\"")


class Visitor:
    """One client of one site. It keeps its cookies and follows redirects, as a browser does."""

    def __init__(self, web: Web) -> None:
        self.web = web
        self.cookies: dict[str, str] = {}
        self.url = f"https://{web.domain}/"

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Send a request and return the response after all redirects."""
        for _ in range(REDIRECTS):
            self.url = urljoin(self.url, path)
            parts = urlsplit(self.url)
            assert (parts.scheme, parts.hostname) == ("https", self.web.domain), f"the app leads to {self.url}"
            answer = self.send(method, parts._replace(scheme="", netloc="", fragment="").geturl(), body, headers)
            if answer.status not in (301, 302, 303, 307, 308):
                return answer
            path = answer.headers["Location"]
            if answer.status < 307:
                method, body, headers = "GET", None, {}
        raise AssertionError(f"more than {REDIRECTS} redirects, at last to {path}")

    def send(self, method: str, target: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        """Send one request with the cookies, and keep those of the response."""
        sent = {"Host": self.web.domain, "Referer": self.url, "Origin": f"https://{self.web.domain}"}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        with contextlib.closing(self.web.connect(self.web.domain)) as connection:
            connection.request(method, target, body, sent | {k.replace("_", "-"): v for k, v in headers.items()})
            response = connection.getresponse()
            for line in response.headers.get_all("Set-Cookie") or []:
                for name, morsel in http.cookies.SimpleCookie(line).items():
                    self.cookies.pop(name, None)
                    if morsel["max-age"] != "0":
                        self.cookies[name] = morsel.coded_value
            return Answer(response.status, response.headers, response.read().decode(errors="replace"))

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, None, **headers)

    def json(self, path: str, content: Any = None, **headers: str) -> Any:
        """Get JSON, or send it and get JSON."""
        headers = {"Accept": "application/json"} | headers
        if content is None:
            answer = self.get(path, **headers)
        else:
            headers = {"Content_Type": "application/json"} | headers
            answer = self.request("POST", path, json.dumps(content).encode(), **headers)
        assert answer.status < 300, (answer.status, answer.text)
        return json.loads(answer.text) if answer.text else None

    def token(self, path: str) -> dict[str, str]:
        """The CSRF token of a page's form, as a field."""
        page = self.get(path)
        found = CSRF.search(page.text)
        assert found, f"no CSRF token in {self.url}, status {page.status}"
        return {"csrf_token": unescape(found[1])}

    def post(self, path: str, fields: dict[str, Any], form: str = "") -> Answer:
        """Send a form. Its CSRF token is taken from the page `form`, that of the path when left out."""
        body = urlencode(self.token(form or path) | fields, doseq=True).encode()
        return self.request("POST", path, body, Content_Type=FORM)

    def upload(
        self,
        path: str,
        name: str,
        content: bytes,
        media_type: str,
        fields: dict[str, str],
        form: str = "",
        field: str = "file",
    ) -> Answer:
        """Send a form with a file in one of its fields."""
        boundary = uuid.uuid4().hex
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
            for key, value in (self.token(form or path) | fields).items()
        ]
        head = (
            f'Content-Disposition: form-data; name="{field}"; filename="{name}"\r\nContent-Type: {media_type}\r\n\r\n'
        )
        parts += [f"--{boundary}\r\n{head}".encode(), content, f"\r\n--{boundary}--\r\n".encode()]
        return self.request("POST", path, b"".join(parts), Content_Type=f"multipart/form-data; boundary={boundary}")


class Websocket:
    """A client's end of a websocket that carries text; see RFC 6455."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.stream = connection.makefile("rb")

    def send(self, text: str) -> None:
        """Send a message of at most 125 bytes."""
        content, mask = text.encode(), os.urandom(4)
        assert len(content) < 126
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(content))
        self.connection.sendall(bytes([0x81, 0x80 | len(content)]) + mask + masked)

    def receive(self) -> str:
        """The next message; an empty one when the other end has closed."""
        head = self.stream.read(2)
        if len(head) < 2 or head[0] & 0x0F == 8:
            return ""
        length = head[1] & 0x7F
        if length > 125:
            length = int.from_bytes(self.stream.read(2 if length == 126 else 8), "big")
        return self.stream.read(length).decode()


@contextlib.contextmanager
def websocket(web: Web, path: str) -> Iterator[Websocket]:
    """Open a websocket as a browser on a page of the same site does."""
    assert web.tls
    plain = socket.create_connection((web.address, web.port), TIMEOUT)
    with web.tls.wrap_socket(plain, server_hostname=web.domain) as connection:
        opening = Websocket(connection)
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {web.domain}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Origin: https://{web.domain}",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
        ]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        status = opening.stream.readline()
        rest = b"".join(iter(opening.stream.readline, b"\r\n"))
        assert b" 101 " in status, status + rest + opening.stream.read(500)
        yield opening


@dataclass
class Page:
    """A page as a browser shows it, and what its console reports about the site's headers."""

    text: str
    violations: list[str]


# Words of Chromium's console about content that headers of the site block. Errors of the app itself are not meant.
BLOCKED = re.compile(
    r"Content Security Policy|MIME type|Cross-Origin|CORS policy|Mixed Content|X-Frame-Options|ERR_BLOCKED",
    re.IGNORECASE,
)


def browse(web: Web, path: str, folder: Path) -> Page:
    """Open a page in Chromium. It reaches no other site, and accepts any certificate."""
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--ignore-certificate-errors"),
        f"--host-resolver-rules=MAP {web.domain} {web.address}:{web.port}, MAP * ~NOTFOUND",
        *(f"--user-data-dir={folder}/chromium", "--virtual-time-budget=8000", f"--screenshot={folder}/page.png"),
    ]
    done = subprocess.run(
        ["chromium", *options, "--dump-dom", f"https://{web.domain}{path}"],
        env=os.environ | {"HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Page(done.stdout, [line for line in lines if BLOCKED.search(line)])
