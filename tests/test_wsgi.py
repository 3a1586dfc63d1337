"""The key wsgi with the real gunicorn: names, factories and their arguments."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import app_keys
from ansible_collections.blueoctopus.site.plugins.plugin_utils.validation import find_problem

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).resolve().parent.parent
APP = """
def application(environ, start_response):
    start_response("200 OK", [])
    return [b"plain"]

def create_app(mode="default", debug=False):
    def app(environ, start_response):
        start_response("200 OK", [])
        return [f"{mode} {debug}".encode()]
    return app
"""


@pytest.fixture(scope="module")
def gunicorn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A venv's gunicorn of the version that the app of the project has."""
    venv = tmp_path_factory.mktemp("gunicorn") / "venv"
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, venv], check=True)
    install = [uv, "pip", "install", "--quiet", "--system-certs", "--python", venv, "--requirement"]
    subprocess.run([*map(str, install), str(PROJECT / "app/requirements.txt")], check=True)
    return venv / "bin/gunicorn"


def wait(place: Path) -> http.client.HTTPConnection:
    deadline = time.monotonic() + 20
    while True:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(str(place))
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return connection


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/web.py").write_text(APP)
    return tmp_path


@pytest.mark.parametrize(
    ("wsgi", "body"),
    [
        ("shop.web:application", "plain"),
        ("shop.web:create_app()", "default False"),
        ("shop.web:create_app('prod')", "prod False"),
        ('shop.web:create_app("prod", debug=True)', "prod True"),
    ],
)
def test_gunicorn_runs_the_callable_of_the_key_wsgi(gunicorn: Path, folder: Path, wsgi: str, body: str) -> None:
    assert find_problem("wsgi", wsgi, app_keys()["wsgi"], "wsgi") is None
    (folder / "gunicorn.conf.py").write_text(f"wsgi_app = {json.dumps(wsgi)}\ncontrol_socket_disable = True\n")
    place = folder / "gunicorn.sock"
    process = subprocess.Popen([gunicorn, "--config", "gunicorn.conf.py", "--bind", f"unix:{place}"], cwd=folder)
    try:
        connection = wait(place)
        connection.request("GET", "/")
        assert connection.getresponse().read().decode() == body
    finally:
        process.terminate()
        process.wait(timeout=20)
