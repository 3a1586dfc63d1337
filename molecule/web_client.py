"""A client of a web app: cookies, forms, uploads, redirects, a websocket, and pages in a browser."""

from __future__ import annotations

import base64
import contextlib
import http.cookies
import json
import os
import re
import select
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode, urljoin, urlsplit

from testing import TIMEOUT, Answer, Web

REDIRECTS = 10
FORM = "application/x-www-form-urlencoded"
CSRF = re.compile(r"<(?:input|meta)\b[^>]*\bname=\"csrf[-_]token\"[^>]*?\b(?:value|content)=\"([^\"]+)\"")


class Client:
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
    """A page as a browser shows it, and what went wrong when it loaded."""

    text: str
    violations: list[str]  # what headers of the site block, from the console
    failed: list[str]  # requests to the site that got no response or a status of 400 or more


# Words of Chromium's console about content that headers of the site block. Errors of the app itself are not meant.
BLOCKED = re.compile(
    r"Content Security Policy|MIME type|Cross-Origin|CORS policy|Mixed Content|X-Frame-Options|ERR_BLOCKED",
    re.IGNORECASE,
)
LOADED = 90  # seconds for a page and its scripts, on a busy test machine
QUIET = 1  # seconds without a new event, after which a page is complete


class Browser:
    """Chromium, controlled over two pipes with the DevTools protocol: JSON, each message ends with a zero byte."""

    def __init__(self, commands: IO[bytes], messages: int) -> None:
        self.commands = commands
        self.messages = messages
        self.rest = b""
        self.count = 0
        self.session: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message; None when there is none in time."""
        deadline = time.monotonic() + seconds
        while b"\0" not in self.rest:
            if not select.select([self.messages], [], [], max(0, deadline - time.monotonic()))[0]:
                return None
            received = os.read(self.messages, 1 << 20)
            assert received, "Chromium has ended"
            self.rest += received
        message, _, self.rest = self.rest.partition(b"\0")
        return dict(json.loads(message))

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method and return its result; keep the events until then."""
        self.count += 1
        self.commands.write(json.dumps({"id": self.count, "method": method, "params": params} | self.session).encode())
        self.commands.write(b"\0")
        while True:
            message = self.receive(TIMEOUT)
            assert message, f"no answer to {method}"
            if message.get("id") == self.count:
                assert "error" not in message, (method, message)
                return dict(message["result"])
            self.events.append(message)

    def wait(self, text: str) -> str:
        """Wait until all of a page is loaded and it contains a text, at most for some time; return its HTML."""
        deadline = time.monotonic() + LOADED
        while True:
            event = self.receive(QUIET)
            if event:
                self.events.append(event)
            if time.monotonic() > deadline or (not event and self.of("Page.loadEventFired")):
                html = self.call("Runtime.evaluate", expression="document.documentElement.outerHTML")["result"]["value"]
                if text in html or time.monotonic() > deadline:
                    return str(html)

    def submit(self, form: Mapping[str, str]) -> None:
        """Type values into the fields of a form, each given by its CSS selector, and send it with the Enter key.

        A form ignores the key until the page's scripts are ready, and then sends nothing: it is filled in again.
        """
        deadline, posted = time.monotonic() + LOADED, self.posted()
        while self.posted() == posted:
            assert time.monotonic() < deadline, "the page sent no form"
            for selector, value in form.items():
                field = f"document.querySelector({json.dumps(selector)})"
                script = f"{field}.focus(); {field}.select(); document.activeElement === {field}"
                focused = self.call("Runtime.evaluate", expression=script)
                assert focused["result"].get("value"), f"there is no field {selector}"
                self.call("Input.insertText", text=value)
            enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
            self.call("Input.dispatchKeyEvent", type="keyDown", text="\r", **enter)
            self.call("Input.dispatchKeyEvent", type="keyUp", **enter)
            while event := self.receive(QUIET):
                self.events.append(event)

    def posted(self) -> int:
        """How many requests with the method POST the page has sent."""
        return sum(sent["request"]["method"] == "POST" for sent in self.of("Network.requestWillBeSent"))

    def of(self, method: str) -> list[dict[str, Any]]:
        """The parameters of all events of a kind."""
        return [event["params"] for event in self.events if event.get("method") == method]


@contextlib.contextmanager
def browser(web: Web, folder: Path, root: Path | None = None) -> Iterator[Browser]:
    """Start Chromium with a tab. It reaches no other site than that of `web`.

    Args:
        web: the site.
        folder: home of Chromium.
        root: the only root certificate that it trusts; when omitted, it accepts any certificate.
    """
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
        "--host-resolver-rules="
        f"MAP {web.domain}:443 {web.address}:{web.port}, MAP {web.domain} {web.address}, MAP * ~NOTFOUND",
        f"--user-data-dir={folder}/chromium",
    ]
    if root:
        store = folder / ".pki/nssdb"
        store.mkdir(parents=True, exist_ok=True)
        for arguments in (["-N", "--empty-password"], ["-A", "-t", "C,,", "-n", "root", "-i", root]):
            subprocess.run(["certutil", "-d", f"sql:{store}", *arguments], check=True, capture_output=True)
    else:
        options.append("--ignore-certificate-errors")
    (its_input, commands), (messages, its_output) = os.pipe(), os.pipe()
    # Chromium reads commands from file descriptor 3 and writes messages to 4. bash chooses free ones for the copies.
    start = f'exec {{in}}<&{its_input} {{out}}>&{its_output}; exec chromium "$@" 3<&$in 4>&$out'
    process = subprocess.Popen(
        ["bash", "-c", start, "bash", *options],
        env=os.environ | {"HOME": str(folder)},
        pass_fds=[its_input, its_output],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(its_input)
    os.close(its_output)
    try:
        with open(commands, "wb", buffering=0) as stream:
            started = Browser(stream, messages)
            target = started.call("Target.createTarget", url="about:blank")["targetId"]
            attached = started.call("Target.attachToTarget", targetId=target, flatten=True)
            started.session = {"sessionId": attached["sessionId"]}
            for domain in ("Network", "Log", "Page"):
                started.call(f"{domain}.enable")
            yield started
    finally:
        process.terminate()
        process.wait()
        os.close(messages)


def browse(
    web: Web,
    path: str,
    text: str,
    folder: Path,
    cookies: Mapping[str, str] | None = None,
    root: Path | None = None,
    form: Mapping[str, str] | None = None,
    after: str = "",
) -> Page:
    """Open a page in Chromium, with the cookies of a visitor.

    Chromium stops requests when the network of the computer changes, such as when another scenario removes a machine.
    Then the page is opened again.

    Args:
        web: the site.
        path: path of the page, or its URL.
        text: what the page contains when its scripts have run.
        folder: home of Chromium.
        cookies: values by name; of a visitor who has logged in.
        root: the only root certificate that Chromium trusts; when omitted, it accepts any certificate.
        form: what to type into the fields of a form of the page, by their CSS selectors; the form is then sent.
        after: what the page contains afterwards.
    """
    for _ in range(3):
        page = open_page(web, path, text, Path(tempfile.mkdtemp(dir=folder)), cookies, root, form, after)
        if not any("ERR_NETWORK_CHANGED" in line for line in page.failed):
            break
    return page


def open_page(
    web: Web,
    path: str,
    text: str,
    folder: Path,
    cookies: Mapping[str, str] | None,
    root: Path | None,
    form: Mapping[str, str] | None,
    after: str,
) -> Page:
    """Open a page once; the arguments are those of `browse`."""
    site = f"https://{web.domain}"
    with browser(web, folder, root) as tab:
        for name, value in (cookies or {}).items():
            tab.call("Network.setCookie", name=name, value=value, url=site, secure=True)
        tab.call("Page.navigate", url=urljoin(site, path))
        html = tab.wait(text)
        if form:
            tab.submit(form)
            html = tab.wait(after)
        requested = {sent["requestId"]: sent["request"]["url"] for sent in tab.of("Network.requestWillBeSent")}
        answers = [received["response"] for received in tab.of("Network.responseReceived")]
        failed = [f"{answer['status']} {answer['url']}" for answer in answers if answer["status"] >= 400]
        errors = [error for error in tab.of("Network.loadingFailed") if not error.get("canceled")]
        failed += [f"{error['errorText']} {requested.get(error['requestId'])}" for error in errors]
        entries = [added["entry"] for added in tab.of("Log.entryAdded")]
    return Page(
        html,
        [f"{entry['text']} {entry.get('url', '')}" for entry in entries if BLOCKED.search(entry["text"])],
        [line for line in failed if f" {site}/" in line and not line.endswith("/favicon.ico")],
    )
