"""The balancers in the inventory: what their roles get, and what can't work."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.filter.balancers import (
    balancer_addresses,
    balancer_certificates,
    balancer_peers,
    balancer_sites,
    challenge_servers,
    deployed_hosts,
)
from ansible_collections.blueoctopus.site.plugins.plugin_utils.balancers import find_balancer_problems, serve_clients

APP: dict[str, Any] = {"name": "shop", "domains": ["shop.example"], "source": "app", "wsgi": "main:app"}
ADDRESSES = {"web1": "10.0.0.1", "web2": "10.0.0.2", "lb1": "10.0.0.8", "lb2": "10.0.0.9"}
GROUPS = {"webservers": ["web1", "web2"], "balancers": ["lb1", "lb2"]}
Hosts = dict[str, dict[str, Any]]


def hosts(*apps: dict[str, Any], **changes: dict[str, Any]) -> Hosts:
    """The variables of two webservers, with one app unless others are given, and of two balancers."""
    found: Hosts = {name: {"ansible_host": address} for name, address in ADDRESSES.items()}
    for name in GROUPS["webservers"]:
        found[name]["apps"] = list(apps) or [APP]
    for name, variables in changes.items():
        found[name] |= variables
    return found


def problems(found: Hosts, groups: dict[str, list[str]] | None = None) -> list[tuple[str, str]]:
    """The host and the place of each problem."""
    return [(host, problem.where) for host, problem in find_balancer_problems(found, groups or GROUPS)]


# --- what the roles get -----------------------------------------------------------------------------------------------


def test_a_site_has_the_webservers_with_its_app() -> None:
    blog = APP | {"name": "blog", "domains": ["blog.example"], "tls": "none", "sticky": True, "timeout": 5}
    admin = APP | {"name": "admin", "path": "/admin/"}  # the app shop has its domain
    found = hosts(APP, admin, web2={"apps": [blog, APP], "balancer_server_address": "10.1.0.2", "nginx_http_port": 81})
    shop, other = balancer_sites(found, GROUPS)
    assert shop == {
        "name": "shop",
        "domains": ["shop.example"],
        "timeout": 60,
        "sticky": False,
        "tls": True,
        "servers": [
            {"name": "web1", "address": "10.0.0.1", "port": 443},
            {"name": "web2", "address": "10.1.0.2", "port": 443},
        ],
    }
    assert (other["tls"], other["sticky"], other["timeout"]) == (False, True, 5)
    assert other["servers"] == [{"name": "web2", "address": "10.1.0.2", "port": 81}]


def test_a_site_waits_for_the_slowest_app_with_its_domain() -> None:
    reports = APP | {"name": "reports", "path": "/reports/", "timeout": 600}
    other = APP | {"name": "blog", "domains": ["blog.example"]}
    assert {site["name"]: site["timeout"] for site in balancer_sites(hosts(APP, reports, other), GROUPS)} == {
        "shop": 600,
        "blog": 60,
    }


def test_secrets_of_apps_do_not_reach_the_balancers() -> None:
    found = hosts(APP | {"secrets": {"SECRET_KEY": "hush"}, "basic_auth": {"a": "$6$hush"}})
    assert "hush" not in repr(balancer_sites(found, GROUPS)) + repr(balancer_certificates(found, GROUPS))


def test_a_certificate_is_obtained_with_the_keys_of_the_app() -> None:
    provided = {"tls": "provided", "tls_certificate": "CERTIFICATE", "tls_key": "KEY"}
    (site,) = balancer_certificates(hosts(APP | provided), GROUPS)
    assert {key: site[key] for key in provided} == provided


def test_a_balancer_gets_the_addresses_of_the_others() -> None:
    found = hosts(lb2={"balancer_own_address": "2001:db8::9"})
    assert balancer_addresses(found, GROUPS) == ["10.0.0.8", "2001:db8::9"]
    assert balancer_addresses(found, GROUPS, "lb2") == ["2001:db8::9"]
    assert balancer_peers(found, GROUPS, "lb1") == [{"name": "lb2", "address": "2001:db8::9", "port": 80}]
    assert challenge_servers(found, GROUPS) == ["10.0.0.8:80", "[2001:db8::9]:80"]


def test_a_host_is_up_to_date_when_all_its_apps_were_deployed() -> None:
    found = hosts(APP, APP | {"name": "blog", "domains": ["blog.example"]}, web2={"apps": [APP]})
    shop: dict[str, Any] = {"hosts": {"web1": {}, "web2": {}}}
    blog: dict[str, Any] = {"hosts": {"web1": {}}}
    for plans, expected in (
        ({"shop": shop}, ["web2"]),
        ({"shop": shop, "blog": blog}, ["web1", "web2"]),
        ({"shop": {"hosts": {"web1": {}}}, "blog": blog}, ["web1"]),  # web2 was lost
    ):
        assert deployed_hosts({"web1": plans, "web2": plans}, found) == expected


@pytest.mark.parametrize(
    ("balancers", "variables", "expected"),
    [([], {}, True), (["lb1"], {}, False), (["lb1"], {"balancer_only": False}, True)],
)
def test_webservers_serve_clients_themselves_without_balancers_or_on_request(
    balancers: list[str], variables: dict[str, Any], expected: bool
) -> None:
    assert serve_clients(hosts(lb1=variables), GROUPS | {"balancers": balancers}) is expected


# --- what can't work --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("second", "is_fine"), [("10.0.0.8", False), ("10.0.0.9", True), ("127.0.0.1", True), ("0.0.0.0", True)]
)
def test_two_balancers_cannot_listen_on_the_same_address_for_the_statistics(second: str, is_fine: bool) -> None:
    first = second if second in ("127.0.0.1", "0.0.0.0") else "10.0.0.8"
    found = hosts(lb1={"balancer_stats_address": first}, lb2={"balancer_stats_address": second})
    assert problems(found) == ([] if is_fine else [("lb2", "key balancer_stats_address")])


def test_a_good_inventory_has_no_problem() -> None:
    shared = {"balancer_address": "10.0.0.100/24"}
    assert problems(hosts(lb1=shared, lb2=shared)) == []
    assert problems(hosts(), {"webservers": ["web1"]}) == []


def test_balancers_without_webservers_are_refused() -> None:
    assert problems(hosts(), {"balancers": ["lb1"]}) == [("lb1", "group webservers")]


def test_a_host_is_not_both() -> None:
    assert problems(hosts(), GROUPS | {"balancers": ["lb1", "web2"]}) == [("web2", "group balancers")]


def test_addresses_are_numbers() -> None:
    found = hosts(lb1={"ansible_host": "lb1.example"}, web2={"balancer_server_address": "web2.example"})
    assert problems(found) == [("lb1", "key balancer_own_address"), ("web2", "key balancer_server_address")]
    found["lb1"]["balancer_own_address"] = found["web2"]["balancer_server_address"] = "10.0.0.7"
    assert problems(found) == []


@pytest.mark.parametrize(
    "address", ["10.0.1.100/24", "10.0.0.8/24", "10.0.0.0/24", "10.0.0.255/24", "10.0.0.300/24", "10.0.0.100/33"]
)
def test_shared_address_must_be_unused_and_in_the_network_of_the_balancers(address: str) -> None:
    shared = {"balancer_address": address}
    assert ("lb1", "key balancer_address") in problems(hosts(lb1=shared, lb2=shared))


def test_shared_address_must_be_the_same_for_all_balancers() -> None:
    assert problems(hosts(lb1={"balancer_address": "10.0.0.100/24"})) == [("lb1", "key balancer_address")]


@pytest.mark.parametrize("key", ["domains", "health_path", "sticky", "tls"])
def test_an_app_is_the_same_on_all_webservers(key: str) -> None:
    value = {"domains": ["other.example"], "health_path": "/other", "sticky": True, "tls": "selfsigned"}[key]
    assert problems(hosts(web2={"apps": [APP | {key: value}]})) == [("web2", f"app shop, key {key}")]


def test_a_domain_belongs_to_one_app() -> None:
    found = hosts(web2={"apps": [APP | {"name": "store"}]})
    assert problems(found) == [("web2", "app store, key domains")]


def test_settings_for_certificates_are_those_of_the_balancers_too() -> None:
    found = hosts(web1={"certificate_email": "you@example.org"}, web2={"certificate_email": "you@example.org"})
    assert set(problems(found)) == {("web1", "key certificate_email"), ("web2", "key certificate_email")}
    for name in ("lb1", "lb2"):
        found[name]["certificate_email"] = "you@example.org"
    assert problems(found) == []


def test_webservers_behind_balancers_have_the_usual_ports() -> None:
    assert problems(hosts(web1={"nginx_https_port": 8443})) == [("web1", "key nginx_https_port")]
