"""A running release on a host: health checks, units, log."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import UnixStreamServer
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.action.release_source import digest_of
from ansible_collections.blueoctopus.site.plugins.module_utils import instances
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import (
    Instance,
    NotReady,
    UnixConnection,
    check_health,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases
from ansible_collections.blueoctopus.site.plugins.plugin_utils.releases import release_id

RELEASE = "20260101T000000Z-00000000aa"
OTHER = "20260101T000000Z-00000000bb"


class Server(BaseHTTPRequestHandler):
    """Responds to /STATUS[/RELEASE…] with that status and a header for each release; to /as/NAME only for that host."""

    def address_string(self) -> str:
        return "unix"

    def do_GET(self) -> None:
        status, *releases = self.path.strip("/").split("/")
        if status == "as":
            status = "200" if self.headers["Host"] == releases[0] else "404"
            releases = [RELEASE]
        self.send_response(int(status))
        for release in releases:
            self.send_header("X-Release", release)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def server_socket(tmp_path: Path) -> Iterator[str]:
    """The Unix socket of a server."""
    path = str(tmp_path / "socket")
    server = UnixStreamServer(path, Server)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    yield path
    server.shutdown()
    thread.join()
    server.server_close()


def request(socket_path: str, path: str, patience: float = 5) -> str:
    return check_health(UnixConnection(socket_path, patience), path, "shop.example", RELEASE)


@pytest.mark.parametrize("status", [200, 204, 302, 304, 399])
def test_a_response_of_the_release_itself_is_good(server_socket: str, status: int) -> None:
    assert request(server_socket, f"/{status}/{RELEASE}") == ""


def test_a_response_of_another_release_is_a_problem(server_socket: str) -> None:
    assert f"came from release {OTHER}" in request(server_socket, f"/200/{OTHER}")


@pytest.mark.parametrize("path", ["/200", "/200//"])
def test_a_response_without_a_release_is_a_problem(server_socket: str, path: str) -> None:
    assert "came from no release" in request(server_socket, path)


@pytest.mark.parametrize("part", [RELEASE[:-1], f"{RELEASE}x", RELEASE.lower(), f"{OTHER}, {RELEASE}x"])
def test_a_response_of_a_release_with_a_similar_id_is_a_problem(server_socket: str, part: str) -> None:
    assert part != RELEASE
    assert request(server_socket, f"/200/{part.replace(' ', '%20')}")


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_a_bad_status_is_a_problem_even_from_the_release_itself(server_socket: str, status: int) -> None:
    assert f"status {status}" in request(server_socket, f"/{status}/{RELEASE}")


def test_the_request_has_the_host_name_of_the_app(server_socket: str) -> None:
    assert request(server_socket, "/as/shop.example") == ""
    assert "status 404" in request(server_socket, "/as/localhost")


def test_a_missing_socket_is_a_problem(tmp_path: Path) -> None:
    assert "No such file" in request(str(tmp_path / "none"), "/")


def test_no_response_is_a_problem(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "socket"))
        mute.listen()
        assert "timed out" in request(str(tmp_path / "socket"), f"/200/{RELEASE}", 0.2)


@pytest.mark.parametrize("words", [b"", b"no HTTP at all\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Len"])
def test_an_invalid_response_is_a_problem(tmp_path: Path, words: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(words)

        thread = threading.Thread(target=answer)
        thread.start()
        assert request(str(tmp_path / "socket"), f"/200/{RELEASE}")
        thread.join()


def test_health_check_works_over_tcp_too() -> None:
    server = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:

        def through(path: str) -> str:
            connection = HTTPConnection("127.0.0.1", server.server_port, timeout=5)
            return check_health(connection, path, "shop.example", RELEASE)

        assert through(f"/200/{RELEASE}") == ""
        assert OTHER in through(f"/200/{OTHER}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# --- units ----------------------------------------------------------------------------------------------------------

UNITS = ["shop@.service", "shop@.socket", "shop.mail-1@.service", "shop.clean@.service", "shop.clean@.timer"]


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    """A release with a background process and a timer."""
    store = Releases("shop", tmp_path / "shop", sites=tmp_path / "sites")
    units = store.path(RELEASE) / "units"
    units.mkdir(parents=True)
    for name in [*UNITS, "shop.release-command@.service"]:
        (units / name).write_text("")
    return Instance(store, RELEASE)


def test_the_units_of_a_release_contain_its_id(instance: Instance) -> None:
    assert instance.web == [f"shop@{RELEASE}.socket", f"shop@{RELEASE}.service"]
    assert instance.processes == [f"shop.mail-1@{RELEASE}.service"]
    assert instance.timers == [f"shop.clean@{RELEASE}.timer"]
    assert instance.background == [*instance.processes, *instance.timers]


Systemd = Callable[..., None]


@pytest.fixture
def systemd(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    """Set systemd's output for the web service and the process: everything runs, except for the given properties."""

    def set_output(unit: str = "", is_active: str = "active", **properties: str) -> None:
        def systemctl(action: str, *argv: str) -> str:
            if action == "is-active":
                return is_active
            usual = {"ActiveState": "active", "SubState": "running", "NRestarts": "0", "StatusText": "ready"}
            blocks = []
            for name in (name for name in (instance.service, *instance.processes) if name in argv):
                shown = {"Id": name} | usual | (properties if name == unit else {})
                blocks.append("\n".join(f"{key}={value}" for key, value in shown.items()))
            return "\n\n".join(blocks)

        monkeypatch.setattr(instances, "systemctl", systemctl)

    return set_output


def test_a_running_release_has_no_deaths(instance: Instance, systemd: Systemd) -> None:
    systemd()
    assert instance.find_deaths() == []


@pytest.mark.parametrize("properties", [{"NRestarts": "1"}, {"SubState": "auto-restart"}, {"SubState": "failed"}])
def test_a_dead_unit_is_reported(instance: Instance, systemd: Systemd, properties: dict[str, str]) -> None:
    for unit in (instance.service, *instance.processes):
        systemd(unit, **properties)
        assert instance.find_deaths() == [unit]


@pytest.mark.parametrize(
    ("status", "dead"), [("1 worker died since the start", "1 worker of "), ("12 workers died", "12 workers of ")]
)
def test_dead_workers_are_counted(instance: Instance, systemd: Systemd, status: str, dead: str) -> None:
    systemd(instance.service, StatusText=status)
    assert instance.find_deaths() == [f"{dead}{instance.service}"]


def test_a_process_that_has_exited_is_reported(instance: Instance, systemd: Systemd) -> None:
    systemd(is_active="inactive")
    assert instance.find_deaths() == instance.processes


# --- the start ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "properties",
    [
        {"ActiveState": "activating", "SubState": "auto-restart"},
        {"ActiveState": "activating", "SubState": "start", "NRestarts": "1"},
        {"ActiveState": "failed", "SubState": "failed"},
        {"ActiveState": "deactivating", "SubState": "final-sigterm"},
        {"ActiveState": "inactive", "SubState": "dead"},
        {"StatusText": "1 worker died since the start"},
    ],
    ids=lambda properties: " ".join(properties.values()),
)
def test_the_wait_ends_at_once_when_the_web_service_has_ended(
    instance: Instance, systemd: Systemd, properties: dict[str, str]
) -> None:
    instance.health_timeout = 15
    systemd(instance.service, is_active=properties.get("ActiveState", "active"), **properties)
    began = time.monotonic()
    with pytest.raises(NotReady, match="It stopped right after the start"):
        instance.wait_until_healthy()
    assert time.monotonic() - began < 10


def test_a_service_that_dies_during_a_health_check_ends_the_wait(
    instance: Instance, systemd: Systemd, tmp_path: Path
) -> None:
    instance.health_timeout = 15
    systemd()
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "socket"))
        mute.listen()
        (instance.store.path(RELEASE) / "socket").symlink_to(tmp_path / "socket")

        def die() -> None:
            connection, _ = mute.accept()  # the health check has begun
            systemd(instance.service, ActiveState="activating", SubState="auto-restart")
            time.sleep(1)
            connection.close()

        thread = threading.Thread(target=die)
        thread.start()
        with pytest.raises(NotReady, match=rf"shop@{RELEASE}\.service died"):
            instance.wait_until_healthy()
        thread.join()


@pytest.mark.parametrize(
    "properties", [{"ActiveState": "inactive", "SubState": "dead", "Job": "12"}, {"ActiveState": "activating"}]
)
def test_a_service_that_systemd_still_starts_has_not_ended(
    instance: Instance, systemd: Systemd, properties: dict[str, str]
) -> None:
    systemd(instance.service, **properties)
    assert not instance.has_ended()


def test_an_app_that_needs_too_long_to_start_gets_an_error_with_the_key(instance: Instance, systemd: Systemd) -> None:
    instance.health_timeout = 0.5
    systemd(instance.service, is_active="activating", ActiveState="activating")
    with pytest.raises(NotReady, match=r"within 0\.5 s: no response yet\.$") as caught:
        instance.wait_until_healthy()
    assert "increase the key health_timeout" in caught.value.advice


def test_a_health_check_without_a_response_in_time_gets_an_error_with_the_key(
    instance: Instance, systemd: Systemd, tmp_path: Path
) -> None:
    instance.health_timeout = 0.5
    systemd()
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "socket"))
        mute.listen()
        (instance.store.path(RELEASE) / "socket").symlink_to(tmp_path / "socket")
        with pytest.raises(NotReady, match=r"timed out\.$") as caught:
            instance.wait_until_healthy()
    assert "increase the key health_timeout" in caught.value.advice


def test_a_path_that_the_app_does_not_have_gets_an_error_with_the_key(
    instance: Instance, systemd: Systemd, server_socket: str
) -> None:
    instance.health_timeout, instance.health_path = 0.5, f"/404/{RELEASE}"
    systemd()
    (instance.store.path(RELEASE) / "socket").symlink_to(server_socket)
    with pytest.raises(NotReady, match=r"GET /404/\S+ did not succeed .* status 404\.$") as caught:
        instance.wait_until_healthy()
    assert "the key health_path" in caught.value.advice


def test_a_changed_health_path_alone_is_a_new_release_and_its_health_check(
    evaluate: Callable[..., dict[str, Any]], store: Releases
) -> None:
    states, packages = [], []
    for path in ("/healthz", "/wrong"):
        settings = evaluate("app", "__app_about", {"health_path": path})
        package = {"digest": digest_of("", {"name": "shop", "about": settings}), "time": "20260101T000000Z"}
        states.append({"releases": {"20250101T000000Z-00000000aa": package["digest"]}})
        packages.append(package)
    assert release_id(states[:1], packages[:1]) == "20250101T000000Z-00000000aa"
    new = release_id(states[:1], packages[1:])
    assert new.startswith("20260101T000000Z-")
    store.path(new).mkdir()
    (store.path(new) / "release.json").write_text(json.dumps(settings))
    assert Instance(store, new).health_path == "/wrong"


def test_installed_units_are_grouped_by_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "UNITS", tmp_path)
    names = {release: [unit.replace("@.", f"@{release}.") for unit in UNITS] for release in (RELEASE, OTHER)}
    for name in (*names[RELEASE], *names[OTHER], f"shop-two@{RELEASE}.service", "shop.service", "shop@1000.service"):
        (tmp_path / name).touch()
    for name in (f"shop@{RELEASE}.service.d", "shop@.service.d"):  # of systemctl edit
        (tmp_path / name).mkdir()
    found = instances.installed_units("shop")
    assert {release: sorted(units) for release, units in found.items()} == {
        release: sorted(units) for release, units in names.items()
    }


def test_what_systemctl_edit_has_added_to_a_unit_is_removed_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "UNITS", tmp_path)
    monkeypatch.setattr(instances, "systemctl", lambda *_: "")
    for release in (RELEASE, OTHER):
        (tmp_path / f"shop@{release}.service").touch()
        (tmp_path / f"shop@{release}.service.d").mkdir()
        (tmp_path / f"shop@{release}.service.d/override.conf").touch()
    instances.remove_units(instances.installed_units("shop")[RELEASE])
    assert {path.name for path in tmp_path.iterdir()} == {f"shop@{OTHER}.service", f"shop@{OTHER}.service.d"}
