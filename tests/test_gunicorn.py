"""gunicorn with the settings of the role app: what an app sees of a request, and how it is started."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import UnixConnection

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).resolve().parent.parent
TIME_LIMIT = 20  # seconds
RELEASE = "20260101T000000Z-00000000aa"

APP = """
import gc, os, pathlib, time
from flask import Flask, jsonify, request, url_for
from werkzeug.middleware.proxy_fix import ProxyFix

with open("imports", "a") as imports:
    imports.write(f"{os.getpid()}\\n")
app = Flask(__name__)

@app.get("/page")
def page():
    return jsonify(client=request.remote_addr, scheme=request.scheme, host=request.host,
                   url=url_for("page", _external=True), pid=os.getpid(),
                   frozen=gc.get_freeze_count())

@app.get("/meet/<int:number>")
def meet(number):
    # Succeeds only when that many requests are in this process at a time.
    here = pathlib.Path(f"here-{request.args['id']}")
    here.touch()
    for _ in range(60):
        if len(list(pathlib.Path().glob("here-*"))) >= number:
            return "met"
        time.sleep(0.05)
    return "alone", 500

@app.get("/slow")
def slow():
    pathlib.Path("begun").touch()
    time.sleep(1)
    return "slow"

@app.get("/multithread")
def multithread():
    return str(request.environ["wsgi.multithread"])

@app.get("/die")
def die():
    os._exit(9)

fixed = Flask("fixed")
fixed.add_url_rule("/page", view_func=page)
fixed.wsgi_app = ProxyFix(fixed.wsgi_app, x_for=1, x_proto=1, x_host=1, x_port=1, x_prefix=1)
"""


class Service:
    """gunicorn on a Unix socket, with systemd's socket for messages."""

    def __init__(self, program: Path, folder: Path, settings: str) -> None:
        self.folder = folder
        self.short = Path(tempfile.mkdtemp(prefix="gunicorn"))  # the path of a Unix socket has at most 107 bytes
        self.socket = str(self.short / "socket")
        (folder / "gunicorn.conf.py").write_text(settings)
        self.log = folder / "log"
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.systemd.bind(str(self.short / "systemd"))
        self.systemd.setblocking(False)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [program, "--config", "gunicorn.conf.py", "--bind", f"unix:{self.socket}"],
                cwd=folder,
                stderr=log,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "NOTIFY_SOCKET": str(self.short / "systemd")},
            )

    def get(self, path: str, **headers: str) -> tuple[int, str, str]:
        """Send a request, as soon as gunicorn listens; return status, release and body."""
        deadline = time.monotonic() + TIME_LIMIT
        connection = UnixConnection(self.socket, TIME_LIMIT)
        while True:
            try:
                connection.connect()
                break
            except (FileNotFoundError, ConnectionRefusedError):
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.02)
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        return response.status, response.headers.get("X-Release", ""), body

    def messages(self) -> list[str]:
        """The messages that systemd has got so far."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.systemd.recv(4096).decode())
        return found

    def imports(self) -> list[int]:
        """The processes that have imported the app."""
        imports = self.folder / "imports"
        return [int(line) for line in imports.read_text().split()] if imports.exists() else []

    def wait_for_imports(self, count: int) -> None:
        deadline = time.monotonic() + TIME_LIMIT
        while len(self.imports()) < count:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)


Render = Callable[..., str]
Serve = Callable[..., Service]


@pytest.fixture
def serve(gunicorn: Path, render: Render, tmp_path: Path) -> Iterator[Serve]:
    """Start gunicorn with an app and some keys of it."""
    services: list[Service] = []

    def started(code: str = APP, **keys: Any) -> Service:
        folder = tmp_path / RELEASE
        folder.mkdir()
        (folder / "main.py").write_text(code)
        settings = render("app", "gunicorn.conf.py.j2", app={"workers": 1, "drain_timeout": 2} | keys)
        services.append(Service(gunicorn, folder, settings))
        return services[-1]

    yield started
    for service in services:
        service.process.terminate()
        service.process.wait()
        shutil.rmtree(service.short)


# --- requests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["app", "fixed"], ids=["without ProxyFix", "with ProxyFix"])
@pytest.mark.parametrize(
    ("client", "scheme", "host"),
    [
        ("203.0.113.7", "https", "shop.example"),
        ("2001:db8::7", "http", "shop.example:8080"),
        ("203.0.113.7", "https", "shop.example:8443"),
    ],
)
def test_an_app_sees_the_client_and_the_url_of_a_request(
    serve: Serve, name: str, client: str, scheme: str, host: str
) -> None:
    # As roles/nginx sends them.
    headers = {"X_Forwarded_For": client, "X_Forwarded_Host": host, "X_Forwarded_Proto": scheme, "X_Real_IP": client}
    status, _, body = serve(wsgi=f"main:{name}").get("/page", Host=host, **headers)
    seen = json.loads(body)
    assert status == 200
    assert (seen["client"], seen["scheme"], seen["host"]) == (client, scheme, host)
    assert seen["url"] == f"{scheme}://{host}/page"


def test_a_url_may_be_as_long_as_nginx_accepts(serve: Serve) -> None:
    assert serve().get(f"/page?{'a' * 8100}")[0] == 200


def test_a_health_check_of_the_host_comes_from_the_host(serve: Serve) -> None:
    status, release, body = serve().get("/page", Host="shop.example")
    assert (status, release) == (200, RELEASE)
    assert json.loads(body)["client"] == "127.0.0.1"


@pytest.mark.parametrize("headers", [{"X_Forwarded_Ssl": "on"}, {"X_Forwarded_Protocol": "ssl"}])
def test_no_other_header_changes_the_scheme(serve: Serve, headers: dict[str, str]) -> None:
    status, _, body = serve().get("/page", Host="shop.example", **headers)
    assert status == 200
    assert json.loads(body)["scheme"] == "http"


# --- workers --------------------------------------------------------------------------------------------------------


def test_each_worker_imports_the_app(serve: Serve) -> None:
    service = serve(workers=3)
    service.wait_for_imports(3)
    assert service.process.pid not in service.imports()


def test_with_preload_the_app_is_imported_once(serve: Serve) -> None:
    service = serve(workers=3, preload=True)
    assert service.get("/page")[:2] == (200, RELEASE)
    assert service.imports() == [service.process.pid]


@pytest.mark.parametrize("preload", [False, True])
def test_with_preload_what_was_imported_is_left_out_of_garbage_collections(serve: Serve, preload: bool) -> None:
    answer = json.loads(serve(preload=preload).get("/page")[2])
    assert (answer["frozen"] > 1000) is preload


@pytest.mark.parametrize(("threads", "requests", "statuses"), [(6, 6, {200}), (1, 2, {200, 500})])
def test_a_worker_answers_as_many_requests_at_a_time_as_it_has_threads(
    serve: Serve, threads: int, requests: int, statuses: set[int]
) -> None:
    service = serve(threads=threads)
    with ThreadPoolExecutor(requests) as pool:
        answers = set(pool.map(lambda n: service.get(f"/meet/{requests}?id={n}")[0], range(requests)))
    assert answers == statuses


@pytest.mark.parametrize("preload", [False, True])
def test_a_worker_that_max_requests_replaces_does_not_count_as_dead(serve: Serve, preload: bool) -> None:
    service = serve(max_requests=3, preload=preload)
    replaced = {json.loads(service.get("/page")[2])["pid"] for _ in range(12)}
    assert len(replaced) > 1
    with pytest.raises(ConnectionError):
        service.get("/die")
    service.get("/page")  # the next worker runs, so the messages have been sent
    deaths = [message for message in service.messages() if "died" in message]
    assert deaths == ["STATUS=1 worker died since the start"]


def test_a_stopping_worker_finishes_its_requests(serve: Serve) -> None:
    service = serve(threads=2, drain_timeout=60)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(service.get, "/slow")
        deadline = time.monotonic() + TIME_LIMIT
        while not (service.folder / "begun").exists():
            assert time.monotonic() < deadline, service.log.read_text()
            time.sleep(0.01)
        service.process.terminate()
        assert answer.result()[::2] == (200, "slow")
    assert service.process.wait(TIME_LIMIT) == 0  # a worker that is idle does not wait for drain_timeout


def test_the_wsgi_environment_shows_that_an_app_runs_in_threads(serve: Serve) -> None:
    assert serve().get("/multithread")[2] == "True"


def test_a_request_that_a_dying_worker_has_not_accepted_is_answered_by_another(serve: Serve) -> None:
    service = serve(workers=2, threads=1)
    service.wait_for_imports(2)
    with ThreadPoolExecutor(6) as pool:
        slow = [pool.submit(service.get, "/slow") for _ in range(6)]
        deadline = time.monotonic() + TIME_LIMIT
        while not (service.folder / "begun").exists():
            assert time.monotonic() < deadline, service.log.read_text()
            time.sleep(0.01)
        os.kill(service.imports()[0], 9)
        lost = [answer for answer in slow if answer.exception() is not None]
    assert len(lost) <= 1
