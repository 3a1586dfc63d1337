"""What a deploy or a rollback says at its end."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.filter.summary import (
    address,
    inventory_options,
    release_summary,
    undo_report,
)
from ansible_collections.blueoctopus.site.plugins.plugin_utils.releases import release_result

V1, V2 = "20260101T000000Z-00000000aa", "20260102T000000Z-00000000bb"
LOG = "  log       ansible-playbook playbooks/logs.yml -i inventory/production -e app=shop"


def state(live: str, *releases: str, settled: bool = True) -> dict[str, Any]:
    """The state of a host before a deploy."""
    return {"live": live, "settled": settled, "releases": dict.fromkeys((live, *releases) if live else releases, "")}


def summary(states: dict[str, Any], release: str = V2, is_check: bool = False, **variables: Any) -> list[str]:
    """The summary for one app on hosts with these states and variables."""
    apps = [{"name": "shop", "domains": ["shop.example", "www.shop.example"]}]
    results = {"shop": release_result(states, release)}
    hostvars = {host: {"apps": apps} | variables for host in states}
    sources = ["/project/inventory/production"]
    found = release_summary({"web1": results}, hostvars, list(hostvars), sources, "/project/playbooks/..", is_check)
    return found.splitlines()


def test_a_deploy_shows_the_releases_the_address_and_the_command_for_the_log() -> None:
    assert summary({"web1": state(V1)}) == [
        "shop",
        f"  release   {V1} → {V2}",
        "  open      https://shop.example/",
        LOG,
    ]


def test_hosts_are_named_when_they_differ() -> None:
    assert summary({"web1": state(V1), "web2": state(V2), "web3": state(""), "web4": state(V1)}) == [
        "shop",
        f"  release   web1, web4: {V1} → {V2}",
        f"            web2: {V2}, nothing to do",
        f"            web3: {V2}, the first release",
        "  open      https://shop.example/",
        LOG,
    ]


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (state(""), f"{V2}, the first release"),
        (state(V2), f"{V2}, nothing to do"),
        (state(V2, settled=False), f"{V2}, started again"),
    ],
)
def test_a_first_and_an_unchanged_release_are_named_as_such(before: dict[str, Any], words: str) -> None:
    assert summary({"web1": before})[1] == f"  release   {words}"


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (state(V1), f"{V1} → a new release"),
        (state(V1, V2), f"{V1} → {V2}"),
        (state(""), "a new release, the first release"),
        (state(V2), f"{V2}, nothing to do"),
    ],
)
def test_check_mode_shows_what_would_change(before: dict[str, Any], words: str) -> None:
    # A new release gets its ID when it is built.
    assert summary({"web1": before}, is_check=True) == ["shop", f"  would be  {words}"]


def test_an_app_that_only_some_hosts_have_names_them() -> None:
    results = {"shop": release_result({"web2": state(V1)}, V2), "blog": release_result({"web1": state("")}, V1)}
    hostvars: dict[str, dict[str, Any]] = {"web1": {"apps": []}, "web2": {"apps": []}}
    found = release_summary({"web1": results}, hostvars, list(hostvars), ["inventory/production"], "/project")
    assert found.splitlines() == [
        "shop",
        f"  release   web2: {V1} → {V2}",
        LOG,
        "",
        "blog",
        f"  release   web1: {V1}, the first release",
        LOG.replace("shop", "blog"),
    ]


@pytest.mark.parametrize(
    ("keys", "variables", "url"),
    [
        ({}, {}, "https://shop.example/"),
        ({"tls": "none"}, {}, "http://shop.example/"),
        ({"tls": "selfsigned"}, {"nginx_https_port": 8443}, "https://shop.example:8443/"),
        ({"tls": "selfsigned"}, {"nginx_https_port": "443", "nginx_http_port": 8080}, "https://shop.example/"),
        ({"tls": "none"}, {"nginx_http_port": 8080}, "http://shop.example:8080/"),
        ({"domains": ["*.shop.example", "a.example"]}, {}, "https://a.example/"),
        ({"domains": ["*.shop.example"]}, {}, ""),
        ({"domains": ["192.0.2.7"], "tls": "none"}, {}, "http://192.0.2.7/"),
        ({"path": "/shop/"}, {}, "https://shop.example/shop/"),
        # A rollback does not validate the domains.
        ({"domains": "shop.example"}, {}, ""),
        ({"domains": None}, {}, ""),
        ({"domains": [7]}, {}, ""),
        ({"name": "other"}, {}, ""),
    ],
)
def test_the_address_is_that_of_the_first_domain(keys: dict[str, Any], variables: dict[str, Any], url: str) -> None:
    app = {"name": "shop", "domains": ["shop.example"]} | keys
    assert address({"apps": [app]} | variables, "shop") == url


@pytest.mark.parametrize(
    ("sources", "options"),
    [
        (["/project/inventory/production"], "-i inventory/production"),
        (["/elsewhere/my hosts"], "-i '/elsewhere/my hosts'"),
        (["/project/inventory/a", "/project/inventory/b"], "-i inventory/a -i inventory/b"),
        (["web1,"], "-i web1,"),
        (["$(id)"], "-i '$(id)'"),
    ],
)
def test_the_inventory_is_relative_to_the_project_and_quoted(sources: list[str], options: str) -> None:
    assert inventory_options(sources, "/project/playbooks/..") == options


@pytest.mark.parametrize(
    ("errors", "not_undone", "lost", "is_planned", "live", "expected"),
    [
        (["web1"], [], [], False, None, ["shop: the deploy failed on web1.", "Nothing was changed."]),
        (
            ["web1"], [], [], True, V1,
            ["shop: the deploy failed on web1 and was undone on every host.", f"Release {V1} is live, as before."],
        ),
        (
            ["web1"], ["web2"], [], True, "",
            [
                "shop: the deploy failed on web1.",
                "web2 could not restore the previous release. The host tries again every ten seconds.",
                "The error is above, and in the journal of the host: journalctl -u 'release-guard-*'",
                "No release is live, as before.",
            ],
        ),
        (
            [], [], ["web1"], True, None,
            [
                "shop: the deploy failed.",
                "web1 can't be reached. The host restores the previous release within two minutes, unless it had",
                "already confirmed the new one. The next run brings all hosts to the same release.",
            ],
        ),
    ],
)  # fmt: skip
def test_the_report_of_a_failure_says_which_host_failed_and_which_release_is_live(
    errors: list[str], not_undone: list[str], lost: list[str], is_planned: bool, live: str | None, expected: list[str]
) -> None:
    found = undo_report(
        "shop", "deploy", {host: {} for host in errors}, not_undone, lost, is_planned, live
    ).splitlines()
    assert found[:-1] == expected
    cause = "Fix the cause, which is in the error above" if errors else "Check the host"
    assert found[-1] == f"{cause}, and run this again."
