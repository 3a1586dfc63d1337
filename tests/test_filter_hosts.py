"""The filters for several hosts: groups, settings with their defaults, results of earlier tasks."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.filter.hosts import results_of
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import hosts_in, setting

GROUPS = {"all": ["web1", "db1", "other"], "webservers": ["web1"], "databases": ["db1", "web1"]}


@pytest.mark.parametrize(
    ("names", "hosts"),
    [
        (["webservers"], ["web1"]),
        (["webservers", "databases"], ["web1", "db1"]),
        (["monitors"], []),
        ([], ["web1", "db1"]),
    ],
)
def test_hosts_of_several_groups_are_listed_once_and_a_group_may_be_absent(names: list[str], hosts: list[str]) -> None:
    assert hosts_in(GROUPS, *names) == hosts


def test_hosts_that_a_run_has_not_reached_have_no_result() -> None:
    hostvars: dict[str, dict[str, Any]] = {"web1": {"cores": 2}, "web2": {}, "db1": {"cores": 8}}
    assert results_of(hostvars, ["web1", "web2"], "cores") == {"web1": 2}


def test_a_result_without_the_key_is_left_out() -> None:
    hostvars: dict[str, dict[str, Any]] = {
        "web1": {"made": {"root": "ROOT"}},
        "web2": {"made": {"skipped": True}},
        "db1": {},
    }
    assert results_of(hostvars, list(hostvars), "made", "root") == {"web1": "ROOT"}


@pytest.mark.parametrize(
    ("variables", "name", "value"),
    [
        ({}, "nginx_https_port", 443),
        ({"nginx_https_port": 8443}, "nginx_https_port", 8443),
        ({"backup_keep": {"daily": 14}}, "backup_keep", {"daily": 14, "weekly": 5, "monthly": 12}),
        ({"alert_mail": []}, "alert_mail", []),
    ],
)
def test_a_setting_has_its_default_and_keeps_what_is_set(variables: dict[str, Any], name: str, value: Any) -> None:
    assert setting(variables, name) == value
