"""The roles' templates."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

Render = Callable[..., str]


@pytest.fixture(autouse=True)
def systemd_messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The messages from gunicorn, which is not installed here, to systemd."""
    messages: list[str] = []
    gunicorn = ModuleType("gunicorn")
    gunicorn.systemd = SimpleNamespace(sd_notify=lambda state, _log: messages.append(state))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gunicorn", gunicorn)
    monkeypatch.setitem(sys.modules, "gunicorn.workers", ModuleType("gunicorn.workers"))
    sync = ModuleType("gunicorn.workers.sync")
    sync.SyncWorker = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gunicorn.workers.sync", sync)
    return messages


def settings(render: Render, tmp_path: Path, **values: Any) -> dict[str, Any]:
    """Run gunicorn's configuration file like gunicorn does."""
    path = tmp_path / "gunicorn.conf.py"
    path.write_text(render("app", "gunicorn.conf.py.j2", **values))
    return runpy.run_path(str(path))


def test_gunicorn_has_the_configured_number_of_workers(render: Render, tmp_path: Path) -> None:
    assert settings(render, tmp_path, app={"workers": 7})["workers"] == 7


def test_gunicorns_default_number_of_workers_depends_on_the_cores(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1, 2, 3}, raising=False)
    assert settings(render, tmp_path)["workers"] == 9


def test_gunicorn_has_the_app_and_its_drain_timeout(render: Render, tmp_path: Path) -> None:
    found = settings(render, tmp_path, app={"wsgi": "shop.web:create_app()", "drain_timeout": 12})
    assert found["wsgi_app"] == "shop.web:create_app()"
    assert found["graceful_timeout"] == 12


@pytest.mark.parametrize(("health_timeout", "timeout"), [(30, 60), (300, 300)])
def test_a_worker_may_import_the_app_for_as_long_as_health_timeout(
    render: Render, tmp_path: Path, health_timeout: int, timeout: int
) -> None:
    assert settings(render, tmp_path, app={"health_timeout": health_timeout})["timeout"] == timeout


def test_gunicorn_reports_the_number_of_dead_workers_to_systemd(
    render: Render, tmp_path: Path, systemd_messages: list[str]
) -> None:
    found = settings(render, tmp_path)
    for process in (7, 8):
        found["child_exit"](SimpleNamespace(log=None), SimpleNamespace(pid=process))
    # The same expression as in plugins/module_utils/instances.py.
    counts = [re.match(r"STATUS=(\d+) workers? died", state) for state in systemd_messages]
    assert [count[1] for count in counts if count] == ["1", "2"]


def test_every_response_contains_its_release(render: Render, tmp_path: Path) -> None:
    sent: list[Any] = []
    worker = SimpleNamespace(wsgi=lambda _environ, start: start("200 OK", [("X-Own", "a")]))
    settings(render, tmp_path)["post_worker_init"](worker)
    worker.wsgi({}, lambda status, headers, _exc_info: sent.append((status, headers)))
    assert sent == [("200 OK", [("X-Own", "a"), ("X-Release", tmp_path.name)])]


def test_the_stop_timeout_of_systemd_is_longer_than_gunicorns(render: Render) -> None:
    unit = render("app", "web.service.j2", app={"drain_timeout": 12})
    assert "TimeoutStopSec=17\n" in unit


def test_systemd_waits_longer_for_the_start_than_the_health_check(render: Render) -> None:
    unit = render("app", "web.service.j2", app={"health_timeout": 40})
    assert "TimeoutStartSec=70\n" in unit


@pytest.mark.parametrize(("path", "lines"), [("/", []), ("/shop/", ["Environment=SCRIPT_NAME=/shop"])])
def test_gunicorn_gets_the_path_of_the_app(render: Render, path: str, lines: list[str]) -> None:
    unit = render("app", "web.service.j2", app={"path": path})
    assert [line for line in unit.split("\n") if "SCRIPT_NAME" in line] == lines


def test_a_site_with_one_domain_redirects_nothing(render: Render) -> None:
    site = render("app", "site.conf.j2", app={"tls": "none"})
    assert site.count("server_name") == 1
    assert "return 301" not in site


@pytest.mark.parametrize(("port", "shown"), [(80, ""), (8080, ":8080")])
def test_further_domains_redirect_to_the_first(render: Render, port: int, shown: str) -> None:
    domains = ["shop.example", "www.shop.example", "old.example"]
    site = render("app", "site.conf.j2", app={"domains": domains, "tls": "none"}, app_http_port=port)
    assert "server_name shop.example;" in site
    assert "server_name www.shop.example old.example;" in site
    assert f"set $first http://shop.example{shown};" in site


@pytest.mark.parametrize(
    ("value", "written"), [("default-src 'self'", "default-src 'self'"), ('a "b" \\', 'a \\"b\\" \\\\')]
)
def test_nginx_gets_a_header_unchanged(render: Render, value: str, written: str) -> None:
    site = render("app", "site.conf.j2", app={"headers": {"X-Own": value}})
    assert f'"" "{written}";' in site


def test_a_default_header_can_be_removed(render: Render) -> None:
    assert "X-Frame-Options" in render("app", "site.conf.j2")
    assert "X-Frame-Options" not in render("app", "site.conf.j2", app={"headers": {"X-Frame-Options": ""}})


def test_a_site_without_tls_has_no_https_headers(render: Render) -> None:
    site = render("app", "site.conf.j2", app={"tls": "none"})
    assert "Strict-Transport-Security $" not in site
    assert "ssl" not in site


@pytest.mark.parametrize("http3", [True, False])
def test_http3_is_offered_only_when_it_is_on(render: Render, http3: bool) -> None:
    assert ("quic" in render("nginx", "nginx.conf.j2", nginx_http3=http3)) == http3
    before: dict[str, Any] = {"__balancer_disabled_before": {"stdout_lines": []}}
    assert ("quic" in render("balancer", "haproxy.cfg.j2", balancer_http3=http3, **before)) == http3


@pytest.fixture
def services(render: Render) -> dict[str, list[str]]:
    """The lines of each service of an app: web, release command, process and timer."""
    app = {
        "release_command": "flask db upgrade",
        "processes": [{"name": "mail", "command": "python mail.py"}],
        "timers": [{"name": "clean", "command": "python clean.py", "on_calendar": "daily"}],
    }
    units = yaml.safe_load(render("app", "units.yml.j2", app=app))
    found = {name: text.split("\n") for name, text in units.items() if name.endswith(".service")}
    assert len(found) == 4
    return found


@pytest.mark.parametrize("postgresql", [True, False])
def test_only_a_release_command_with_a_database_of_this_project_has_a_lock_there(
    render: Render, postgresql: bool
) -> None:
    app = {"release_command": "flask db upgrade", "postgresql": postgresql}
    unit = yaml.safe_load(render("app", "units.yml.j2", app=app))["units/shop.release-command@.service"].split("\n")
    lock = "/usr/bin/python3 -I /srv/shop/releases/%i/command_lock.py " if postgresql else ""
    assert f'ExecStart={lock}/usr/bin/env "flask" "db" "upgrade"' in unit


def test_every_service_of_an_app_runs_as_its_own_user_in_the_sandbox(services: dict[str, list[str]]) -> None:
    for name, lines in services.items():
        assert {"User=shop", "Group=shop", "ProtectSystem=strict", "NoNewPrivileges=true"} <= set(lines), name


def test_the_environment_of_every_service_names_the_release_and_its_folders(services: dict[str, list[str]]) -> None:
    for name, lines in services.items():
        environment = {line.removeprefix("Environment=") for line in lines if line.startswith("Environment=")}
        assert {"RELEASE=%i", "RELEASE_DIR=/srv/shop/releases/%i/source", "DATA_DIR=/srv/shop/data"} <= environment, (
            name
        )
