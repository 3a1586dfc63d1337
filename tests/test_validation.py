"""Valid and invalid values of the keys of an app."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.plugin_utils.inventory import check_apps
from ansible_collections.blueoctopus.site.plugins.plugin_utils.validation import Problem

PROJECT = Path(__file__).resolve().parent.parent


GOOD: dict[str, Any] = {
    "name": "shop",
    "domains": ["shop.example", "www.shop.example"],
    "source": "app",
    "wsgi": "main:app",
}


def problems(*apps: Any) -> list[Problem]:
    return list(check_apps(list(apps)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "Shop"),
        ("name", "9lives"),
        ("name", "a" * 32),
        ("name", "shop;rm"),
        ("name", "root"),
        ("name", 5),
        ("domains", []),
        ("domains", "shop.example"),
        ("domains", ["shop example"]),
        ("domains", ['shop".example']),
        ("domains", ["shop.example;"]),
        ("domains", ["Shop.example"]),
        ("domains", ["*.shop.example", "shop.example"]),
        ("domains", ["shop.example", "a.*.shop.example"]),
        ("domains", ["shop.example", "shop.example"]),
        ("domains", ["shop..example"]),
        ("domains", ["192.0.2.300"]),
        ("domains", ["shop.example\n"]),
        ("source", "no/such/folder"),
        ("source", ["app"]),
        ("requirements", "/etc/passwd"),
        ("requirements", "../requirements.txt"),
        ("wsgi", "main"),
        ("wsgi", "main:app; rm"),
        ("wsgi", "main:app\n"),
        ("health_path", "healthz"),
        ("health_path", "/a b"),
        ("health_path", "/gesündheit"),
        ("health_timeout", "30"),
        ("health_timeout", 0),
        ("health_timeout", True),
        ("drain_timeout", 3601),
        ("source", "https://example.org/a b.git"),
        ("version", "--upload-pack=x"),
        ("release_command", "echo 'open"),
        ("release_command", "two\nlines"),
        ("keep_releases", 0),
        ("processes", [{"name": "mail"}]),
        ("processes", [{"name": "mail", "command": "a", "count": 0}]),
        ("processes", [{"name": "mail", "command": "a"}, {"name": "mail", "command": "b"}]),
        ("processes", [{"name": "mail", "command": "a", "counts": 2}]),
        ("timers", [{"name": "clean", "command": "a"}]),
        ("timers", [{"name": "clean", "command": "a", "on_calendar": "daily\nExecStart=x"}]),
        ("workers", 0),
        ("workers", 2.5),
        ("environment", ["A=b"]),
        ("environment", {"A-B": "c"}),
        ("environment", {"A": ["b"]}),
        ("environment", {"A": "b\0c"}),
        ("tls", "letsencrypt"),
        ("tls_challenge", "tls-alpn"),
        ("headers", {"X-A": "two\nlines"}),
        ("headers", {"X-A": 'a "quote"'}),
        ("headers", {"X-A": "a $variable"}),
        ("headers", {"X A": "b"}),
        ("headers", {"x-frame-options": "DENY"}),
        ("name", "certificates"),
        ("name", "all"),
        ("maintenance_allow", ["fe80::1%x 1; }"]),
        ("headers", {"X-A": 5}),
        ("shared_paths", "instance"),
        ("shared_paths", ["/instance"]),
        ("shared_paths", ["../instance"]),
        ("shared_paths", ["./instance"]),
        ("shared_paths", ["a//b"]),
        ("shared_paths", ["/"]),
        ("shared_paths", [""]),
        ("shared_paths", ["two words"]),
        ("shared_paths", ["instance", "instance/"]),
        ("shared_paths", ["instance", "instance/uploads"]),
        ("shared_paths", ["venv"]),
        ("shared_paths", ["venv/bin"]),
        ("shared_paths", ["venv/var"]),
        ("shared_paths", ["venv/lib/python3.11"]),
        ("threads", 0),
        ("preload", "yes"),
        ("max_requests", -1),
        ("static", {"url": "/static"}),
        ("static", {"url": "/../"}),
        ("static", {"url": "/s;/"}),
        ("static", {"url": "/s/", "path": "../s"}),
        ("limits", {"request": 5}),
        ("limits", {"requests": 5, "burst": -1, "connections": 5}),
        ("upload_limit", "10 MB"),
        ("timeout", 0),
        ("websockets", "yes"),
        ("streaming", 1),
        ("network", "none"),
        ("memory_limit", "lots"),
        ("memory_limit", "0M"),
        ("tasks_limit", 1),
        ("maintenance_allow", ["everybody"]),
        ("maintenance_allow", ["192.0.2.1; allow all"]),
    ],
)
def test_an_invalid_value_is_reported_with_the_expected_one(key: str, value: Any) -> None:
    found = problems(GOOD | {key: value})
    assert len(found) == 1, found
    assert f"key {key}" in found[0].where
    assert found[0].found == repr(value)
    assert found[0].expected
    assert found[0].example


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("domains", ["localhost"]),
        ("source", str(PROJECT / "app")),
        ("wsgi", "shop.web:create_app()"),
        ("health_path", "/health/live?full=1"),
        ("environment", {"QUOTE": 'a "b" $c\nd', "NUMBER": 7}),
        ("source", "https://example.org/shop.git"),
        ("source", "git@example.org:shop.git"),
        ("version", "v1.2.3"),
        ("version", "feature/x"),
        ("release_command", "flask --app main db upgrade"),
        ("processes", [{"name": "mail", "command": "python mail.py", "count": 2}]),
        ("timers", [{"name": "clean", "command": "flask clean", "on_calendar": "Mon..Fri *-*-* 03:00:00"}]),
        ("tls", "none"),
        ("headers", {"X-Frame-Options": "", "Content-Security-Policy": "default-src 'self' https://cdn.example"}),
        ("shared_paths", ["instance", "instances", "app.db", "static/uploads/", "venv/var/shop-instance"]),
        ("threads", 1),
        ("preload", True),
        ("max_requests", 1000),
        ("static", {"url": ""}),
        ("static", {"path": "assets"}),
        ("limits", {"burst": 300}),
        ("limits", {"requests": 0, "burst": 0, "connections": 0}),
        ("upload_limit", "2g"),
        ("websockets", True),
        ("memory_limit", "infinity"),
        ("maintenance_allow", ["192.0.2.0/24", "2001:db8::1"]),
    ],
)
def test_a_valid_value_is_accepted(key: str, value: Any) -> None:
    assert problems(GOOD | {key: value}) == []


def test_a_secret_is_not_shown_in_its_error() -> None:
    (problem,) = problems(GOOD | {"secrets": {"SECRET-KEY": "squid"}})
    assert "squid" not in str(problem)
