"""Valid and invalid values of the keys of an app and of settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.plugin_utils import validation
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import machine_settings
from app_entries import GOOD, problems

PROJECT = Path(__file__).resolve().parent.parent


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
        ("path", "shop"),
        ("path", "/shop"),
        ("path", "/shop/../"),
        ("path", "/sh op/"),
        ("path", "/shop;/"),
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
        ("static", {"url": "/static/", "path": "static"}),
        ("static", [{"url": "/static/"}]),
        ("static", [{"url": "/static", "path": "s"}]),
        ("static", [{"url": "", "path": "s"}]),
        ("static", [{"url": "/../", "path": "s"}]),
        ("static", [{"url": "/.git/", "path": "s"}]),
        ("static", [{"url": "/s;/", "path": "s"}]),
        ("static", [{"url": "/s/", "path": "../s"}]),
        ("static", [{"url": "/s/", "path": "package:flask_admin"}]),
        ("static", [{"url": "/s/", "path": "package:flask_admin/../../x"}]),
        ("static", [{"url": "/s/", "path": "package:/etc"}]),
        ("media", {"url": "/media"}),
        ("media", {"url": "/media/", "path": "../media"}),
        ("media", {"url": "/media/", "inline": "no"}),
        ("private_files", {"url": "/private/", "path": "/etc"}),
        ("csp", "stict"),
        ("csp", "default-src 'self'; script-src $host"),
        ("csp", "default-src 'self'\nX-Own: a"),
        ("csp", 'default-src "self"'),
        ("isolation", "yes"),
        ("robots", "noindex"),
        ("redirects", [{"from": "/old"}]),
        ("redirects", [{"from": "old", "to": "/new"}]),
        ("redirects", [{"from": "/o ld", "to": "/new"}]),
        ("redirects", [{"from": '/old"', "to": "/new"}]),
        ("redirects", [{"from": "/old", "to": "/$host"}]),
        ("redirects", [{"from": "/old", "to": "/new;}"}]),
        ("redirects", [{"from": "/old", "to": "/new\n"}]),
        ("redirects", [{"from": "/old", "to": "javascript:alert(1)"}]),
        ("redirects", [{"from": "/old", "to": "/new", "status": 200}]),
        ("redirects", [{"from": "/old", "to": "/a"}, {"from": "/old", "to": "/b"}]),
        ("nginx_extra", "}"),
        ("nginx_extra", "} server { listen 81;"),
        ("nginx_extra", "gzip off"),
        ("nginx_extra", "location / {"),
        ("nginx_extra", 'set $a "open;'),
        ("nginx_extra", "# } \n}"),
        ("limits", {"request": 5}),
        ("limits", {"requests": 5, "burst": -1, "connections": 5}),
        ("limits", {"connections": 65536}),  # nginx refuses more than 65535
        ("upload_limit", "10 MB"),
        ("upload_limit", "99999999999g"),  # too large a number for nginx
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
        ("static", []),
        ("static", [{"url": "/static/", "path": "static"}, {"url": "/a/b/", "path": "package:ihatemoney/static"}]),
        ("media", {"url": "/media/"}),
        ("media", {"url": "/media/", "path": "files/public", "inline": True}),
        ("private_files", {"url": "/private/"}),
        ("csp", ""),
        ("csp", "strict"),
        ("csp", "report-only"),
        ("csp", "default-src 'self'; script-src 'self' https://cdn.example"),
        ("csp", "upgrade-insecure-requests"),
        ("redirects", [{"from": "/old", "to": "/new"}, {"from": "/a", "to": "https://b.example/?c=d", "status": 308}]),
        ("nginx_extra", 'location = /a {\n  return 200 "} $host \\" {";  # }\n}\nset $b ${host}x;'),
        ("basic_auth", {"staging": "$6$salt$AbC./09", "a@b.example": "$2y$10$AbC./09", "c": "$apr1$salt$AbC./09"}),
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


@pytest.mark.parametrize(
    "value",
    [{"staging": "squid"}, {"sta:ging": "$6$salt$squid"}, {"": "$6$s$squid"}, {"a": "$6$salt$squid\nb:c"}, "squid"],
)
def test_a_password_that_is_no_hash_is_refused_and_not_shown(value: Any) -> None:
    (problem,) = problems(GOOD | {"basic_auth": value})
    assert problem.where == "app shop, key basic_auth"
    assert "squid" not in str(problem)


@pytest.mark.parametrize(
    ("keys", "key", "expected"),
    [
        ({"static": [{"url": "/a/", "path": "a"}, {"url": "/a/b/", "path": "b"}]}, "static", "/a/ of static"),
        ({"media": {"url": "/static/"}}, "media", "/static/ of static"),
        ({"media": {"url": "/m/"}, "private_files": {"url": "/m/p/"}}, "private_files", "/m/ of media"),
        (
            {"media": {"url": "/m/", "path": "a"}, "private_files": {"url": "/p/", "path": "a/b"}},
            "private_files",
            "a path that does not overlap with a/ of media",
        ),
        ({"media": {"url": "/_error/x/"}}, "media", "nginx has its error pages"),
        ({"redirects": [{"from": "/", "to": "/home"}]}, "redirects", "another health_path"),
        ({"redirects": [{"from": "/a", "to": "/a"}]}, "redirects", "another target"),
        ({"redirects": [{"from": "/robots.txt", "to": "/a"}], "robots": False}, "redirects", "nginx itself answers"),
        ({"redirects": [{"from": "/_error/style.css", "to": "/a"}]}, "redirects", "nginx itself answers"),
    ],
)
def test_a_path_with_two_uses_is_refused(keys: dict[str, Any], key: str, expected: str) -> None:
    (problem,) = problems(GOOD | keys)
    assert problem.where == f"app shop, key {key}"
    assert expected in problem.expected


BLOG = GOOD | {"name": "blog", "domains": ["shop.example"], "path": "/blog/"}


def test_apps_can_share_a_domain() -> None:
    assert problems(BLOG, GOOD, BLOG | {"name": "wiki", "path": "/blog/wiki/"}) == []


@pytest.mark.parametrize(
    ("app", "others", "key", "expected"),
    [
        (BLOG, [], "domains", "only the first domain of another app"),
        (BLOG | {"domains": ["www.shop.example"]}, [GOOD], "domains", "only the first domain of another app"),
        (BLOG | {"domains": GOOD["domains"]}, [GOOD], "domains", "only the first domain of another app"),
        (BLOG | {"tls": "none"}, [GOOD], "tls", "none for both apps, or for neither"),
        (BLOG, [GOOD, BLOG | {"name": "wiki"}], "path", "a path that no other app of shop.example has; wiki has it"),
        (BLOG, [GOOD | {"media": {"url": "/blog/"}}], "path", "does not overlap with /blog/ of media of shop"),
        (BLOG | {"path": "/static/"}, [GOOD], "path", "does not overlap with /static/ of static of shop"),
    ],
)
def test_an_app_that_cannot_share_a_domain_is_reported(app: Any, others: Any, key: str, expected: str) -> None:
    (problem,) = problems(*others, app)
    assert problem.where == f"app blog, key {key}"
    assert expected in problem.expected


def test_an_app_with_a_path_needs_no_certificate_of_its_own() -> None:
    assert problems(GOOD | {"tls": "selfsigned"}, BLOG | {"tls": "provided"}) == []


def test_paths_with_a_common_beginning_are_no_conflict() -> None:
    keys = {"static": [{"url": "/a/", "path": "a"}, {"url": "/ab/", "path": "b"}], "media": {"url": "/m/"}}
    assert problems(GOOD | keys | {"redirects": [{"from": "/a", "to": "/a/"}]}) == []


@pytest.mark.parametrize("source", ["https://me:tok3n@git.example/a b.git", "htps://tok3n@git.example/shop.git"])
def test_the_login_of_a_url_is_not_shown_in_its_error(source: str) -> None:
    (problem,) = problems(GOOD | {"source": source})
    assert "tok3n" not in str(problem)
    assert "git.example/" in problem.found


def test_a_secret_is_not_shown_in_its_error() -> None:
    (problem,) = problems(GOOD | {"secrets": {"SECRET-KEY": "squid"}})
    assert "squid" not in str(problem)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Etc/UTC", "UTC", "America/Argentina/Buenos_Aires"])
def test_a_time_zone_is_accepted(zone: str) -> None:
    assert validation.find_problem("base_timezone", zone, machine_settings()["base_timezone"], "host") is None


@pytest.mark.parametrize(("zone", "hint"), [("Europe/Moskow", "; did you mean 'Europe/Moscow'?"), ("Mars/Olympus", "")])
def test_an_unknown_time_zone_is_refused(zone: str, hint: str) -> None:
    problem = validation.find_problem("base_timezone", zone, machine_settings()["base_timezone"], "host")
    assert problem
    assert problem.expected == f"the name of a time zone in the tz database{hint}"


def test_a_time_zone_is_accepted_on_a_control_node_without_the_tz_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "time_zones", set)
    assert validation.is_time_zone("Mars/Olympus")
