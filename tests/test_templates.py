"""What the templates make of the roles' arguments."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLES = Path(__file__).resolve().parent.parent / "roles"
APP = {
    "app_name": "shop",
    "app_domains": ["shop.example"],
    "app_source": "app",
    "app_wsgi": "main:app",
    "ansible_managed": "managed",
}
Render = Callable[..., str]


def trusted(value: Any) -> Any:
    """Let Ansible template the strings in a value, as it does with what it reads itself."""
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, list):
        return [trusted(v) for v in value]
    return {k: trusted(v) for k, v in value.items()} if isinstance(value, dict) else value


@pytest.fixture
def render() -> Render:
    """Render a role's template with the role's defaults, and other values on top."""

    def rendered(role: str, template: str, **values: Any) -> str:
        variables: dict[str, Any] = {"ansible_managed": "managed"}
        for file in ("defaults/main.yml", "vars/main.yml"):
            if (ROLES / role / file).exists():
                variables |= trusted(yaml.safe_load((ROLES / role / file).read_text()))
        templar = Templar(DataLoader(), variables | APP | values)
        text = (ROLES / role / "templates" / template).read_text()
        options = {"trim_blocks": True, "keep_trailing_newline": True}
        return str(
            templar.copy_with_new_env(searchpath=[str(ROLES / role / "templates")]).template(
                trust_as_template(text), overrides=options
            )
        )

    return rendered


def settings(render: Render, tmp_path: Path, **values: Any) -> dict[str, Any]:
    """Run gunicorn's configuration as gunicorn does."""
    path = tmp_path / "gunicorn.conf.py"
    path.write_text(render("app", "gunicorn.conf.py.j2", **values))
    return runpy.run_path(str(path))


def test_gunicorn_gets_the_workers_that_are_asked_for(render: Render, tmp_path: Path) -> None:
    assert settings(render, tmp_path, app_workers=7)["workers"] == 7


def test_gunicorn_goes_by_the_cores_otherwise(render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1, 2, 3}, raising=False)
    assert settings(render, tmp_path)["workers"] == 9


def test_gunicorn_finds_the_app_and_lets_it_finish(render: Render, tmp_path: Path) -> None:
    found = settings(render, tmp_path, app_wsgi="shop.web:create_app()", app_drain_timeout=12)
    assert found["wsgi_app"] == "shop.web:create_app()"
    assert found["graceful_timeout"] == 12


def test_systemd_waits_longer_for_the_end_than_gunicorn(render: Render) -> None:
    unit = render("app", "web.service.j2", app_drain_timeout=12)
    assert "TimeoutStopSec=17\n" in unit


def test_a_site_with_one_domain_redirects_nothing(render: Render) -> None:
    site = render("app", "site.conf.j2")
    assert site.count("server_name") == 1
    assert "return 301" not in site


@pytest.mark.parametrize(("port", "shown"), [(80, ""), (8080, ":8080")])
def test_further_domains_lead_to_the_first(render: Render, port: int, shown: str) -> None:
    domains = ["shop.example", "www.shop.example", "old.example"]
    site = render("app", "site.conf.j2", app_domains=domains, app_http_port=port)
    assert "server_name shop.example;" in site
    assert "server_name www.shop.example old.example;" in site
    assert f"return 301 $scheme://shop.example{shown}$request_uri;" in site


@pytest.mark.parametrize(("port", "shown"), [(80, "$host"), (8080, "$host:8080")])
def test_nginx_tells_apps_the_host_by_its_own_port(render: Render, port: int, shown: str) -> None:
    config = render("nginx", "nginx.conf.j2", nginx_http_port=port)
    assert f"proxy_set_header Host {shown};" in config
    assert f"listen {port} default_server;" in config
    assert f"listen [::]:{port} default_server;" in config
