"""The checks of the whole inventory: apps, domains, certificates, administrators, options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible_collections.blueoctopus.site.plugins.plugin_utils import inventory
from ansible_collections.blueoctopus.site.plugins.plugin_utils.inventory import check_apps, report
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import app_keys
from ansible_collections.blueoctopus.site.plugins.plugin_utils.validation import Problem
from app_entries import GOOD, problems

PROJECT = Path(__file__).resolve().parent.parent


# --- apps -----------------------------------------------------------------------------------------------------------


def test_a_minimal_app_is_valid() -> None:
    assert problems(GOOD) == []


def test_every_key_of_the_example_inventory_is_valid() -> None:
    text = (PROJECT / "inventory/production/group_vars/webservers/main.yml").read_text()
    uncommented = re.sub(rf"^    # (?=({'|'.join(app_keys())}): )", "    ", text, flags=re.MULTILINE)
    shown = yaml.safe_load(uncommented.replace('["{{ ansible_host }}"]', "[shop.example]"))
    shown["apps"][0] |= {"tls_certificate": "-----BEGIN CERTIFICATE-----", "tls_key": "-----BEGIN PRIVATE KEY-----"}
    shown["apps"][0]["basic_auth"] = {"staging": "$6$salt$hash"}  # instead of a variable
    shown["apps"][0]["path"] = "/"  # the example needs another app
    shown["apps"][0]["subfolder"] = "templates"  # the app has no folder backend
    assert set(shown["apps"][0]) == set(app_keys())
    assert problems(*shown["apps"]) == []


@pytest.mark.parametrize("key", ["name", "domains", "source", "wsgi"])
def test_a_missing_key_is_reported(key: str) -> None:
    app = {k: v for k, v in GOOD.items() if k != key}
    (problem,) = problems(app)
    assert problem.where.endswith(f", key {key}")
    assert problem.found == "nothing"
    assert problem.example.startswith(f"{key}: ")


def test_a_misspelt_key_gets_a_hint_before_the_list_of_keys() -> None:
    (problem,) = problems(GOOD | {"worker": 3})
    assert problem.where == "app shop, key worker"
    assert problem.expected.startswith("did you mean 'workers'? The known keys are name, ")
    (problem,) = problems(GOOD | {"zzz": 3})
    assert problem.expected.startswith("one of name, ")


def test_two_apps_cannot_have_the_same_domain() -> None:
    (problem,) = problems(GOOD, GOOD | {"name": "blog", "domains": ["blog.example", "www.shop.example"]})
    assert problem.where == "app blog, key domains"
    assert "'www.shop.example'" in problem.found
    assert "app shop already has it" in problem.expected


def test_two_apps_cannot_have_the_same_name() -> None:
    (problem,) = problems(GOOD, GOOD | {"domains": ["blog.example"]})
    assert problem.found == "two apps with this name"


@pytest.mark.parametrize(
    ("requirements", "path"), [("requirements.txt", "requirements.txt"), ("deploy/all.txt", "deploy/")]
)
def test_the_app_cannot_change_its_requirements_in_a_shared_path(requirements: str, path: str) -> None:
    (problem,) = problems(GOOD | {"requirements": requirements, "shared_paths": ["instance", path]})
    assert problem.where == "app shop, key shared_paths"
    assert requirements in problem.expected


@pytest.mark.parametrize("apps", [None, "shop", {"shop": GOOD}])
def test_apps_must_be_a_list(apps: Any) -> None:
    (problem,) = check_apps(apps)
    assert problem.where == "key apps"


def test_hosts_with_the_same_problem_are_listed_together() -> None:
    problem = problems(GOOD | {"worker": 3})[0]
    text = report({problem: [f"web{n}" for n in range(1, 8)]})
    assert text.count("found:") == 1
    assert "hosts web1, web2, web3, web4, web5 and 2 more, app shop, key worker" in text


# --- certificates ---------------------------------------------------------------------------------------------------


def test_an_address_is_a_valid_domain_with_plain_http() -> None:
    assert problems(GOOD | {"domains": ["192.0.2.7"], "tls": "none"}) == []


def test_an_invalid_tls_is_one_problem_even_for_an_address() -> None:
    (problem,) = problems(GOOD | {"domains": ["192.0.2.7"], "tls": "letsencrypt"})
    assert problem.found == "'letsencrypt'"


@pytest.mark.parametrize("tls", ["acme", "selfsigned"])
def test_an_address_cannot_have_https(tls: str) -> None:
    (problem,) = problems(GOOD | {"domains": ["192.0.2.7"], "tls": tls})
    assert (problem.where, problem.example) == ("app shop, key tls", "tls: none")


def test_a_wildcard_requires_the_challenge_dns() -> None:
    domains = {"domains": ["shop.example", "*.shop.example"]}
    (problem,) = problems(GOOD | domains)
    assert problem.example == "tls_challenge: dns"
    assert problems(GOOD | domains | {"tls_challenge": "dns"}) == []


def test_the_dns_challenge_requires_a_provider_and_its_credentials() -> None:
    app = GOOD | {"tls_challenge": "dns"}
    (problem,) = inventory.check_dns([app], "", "")
    assert problem.where == "app shop, key tls_challenge"
    (problem,) = inventory.check_dns([app], "cloudflare", "")
    assert problem.where == "key certificate_dns_credentials"
    assert "certbot-dns-cloudflare" in problem.expected
    assert list(inventory.check_dns([app], "cloudflare", "dns_cloudflare_api_token = x")) == []
    assert list(inventory.check_dns([GOOD], "", "")) == []


@pytest.mark.parametrize("key", ["tls_certificate", "tls_key"])
def test_a_provided_certificate_without_its_other_half_is_one_problem(key: str) -> None:
    half = {"tls_certificate": "-----BEGIN CERTIFICATE-----\n", "tls_key": "-----BEGIN PRIVATE KEY-----\n"}
    del half[key]
    (problem,) = problems(GOOD | {"tls": "provided"} | half)
    assert (problem.where, problem.found) == (f"app shop, key {key}", "nothing")


def test_an_error_in_a_provided_certificate_names_the_app_and_the_key() -> None:
    half = {"tls_certificate": "-----BEGIN CERTIFICATE-----\nAAAA", "tls_key": "-----BEGIN PRIVATE KEY-----\n"}
    (problem,) = problems(GOOD | {"tls": "provided"} | half)
    assert problem.where == "app shop, key tls_certificate"
    assert problem.example


# --- administrators -------------------------------------------------------------------------------------------------


PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBweY/L0cxGLI5mPHTcI33kGs0rNbEV3uPJSNMtoJ3PL somebody@laptop"


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ([], "an empty list: nobody could log in"),
        ([PUBLIC, "ssh-ed25519 AAAA"], "'ssh-ed25519 AAAA…', not a public key"),
        (["-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl"], "a private key, not a public key"),
        ([PUBLIC.replace("AAAAC3", "AAAAC4")], "'ssh-ed25519 AAAAC4NzaC1lZDI1NTE5AAAAIBwe…', not a public key"),
    ],
)
def test_invalid_keys_of_administrators_are_reported(keys: list[str], found: str) -> None:
    (problem,) = inventory.check_admin_keys(keys)
    assert problem.found == found
    assert problem.where.startswith("key admin_keys")


def test_valid_keys_of_administrators_are_accepted() -> None:
    assert list(inventory.check_admin_keys([PUBLIC])) == []
    assert list(inventory.check_admin_keys(None)) == []


# --- only the keys that a playbook uses -----------------------------------------------------------------------------


USED = ["name", "keep_releases"]


def unexpected(name: str, error: AnsibleError) -> list[Problem]:
    """No variable of these tests needs an explanation."""
    raise AssertionError(name) from error


def host_problems(apps: Any, chosen: str | None, keys: list[str] | None) -> tuple[list[Problem], set[str]]:
    """The problems of a host, and the names of its apps."""
    known: set[str] = set()
    return list(inventory.check_host({"apps": apps}, unexpected, known, chosen, keys)), known


def test_only_the_given_keys_of_the_chosen_app_are_checked() -> None:
    app = GOOD | {"source": "no/such/folder", "wsgi": "main", "workers": 0, "unknown": 1}
    assert len(host_problems([app], "shop", None)[0]) == 4
    assert host_problems([app], "shop", USED) == ([], {"shop"})


def test_an_invalid_given_key_of_the_chosen_app_is_a_problem() -> None:
    (problem,), _known = host_problems([GOOD | {"keep_releases": 0}], "shop", USED)
    assert problem.where == "app shop, key keep_releases"
    assert problem.found == "0"


def test_an_omitted_key_is_no_problem() -> None:
    assert "keep_releases" not in GOOD
    assert host_problems([{"name": "shop"}], "shop", USED)[0] == []


@pytest.mark.parametrize(
    "other", [{"name": "blog", "keep_releases": 0}, {"name": "Blog;"}, {"name": "blog"}, "blog", None]
)
def test_another_invalid_app_is_no_problem_for_the_chosen_one(other: Any) -> None:
    assert host_problems([other, GOOD], "shop", None)[0]
    found, known = host_problems([other, GOOD], "shop", USED)
    assert found == []
    assert "shop" in known


def test_without_a_chosen_app_the_given_keys_of_all_apps_are_checked() -> None:
    found, known = host_problems([GOOD | {"keep_releases": 0}, {"name": "blog", "keep_releases": 0}], None, USED)
    assert [problem.where for problem in found] == ["app shop, key keep_releases", "app blog, key keep_releases"]
    assert known == {"shop", "blog"}


def test_invalid_settings_of_the_host_are_no_problem_when_only_keys_of_an_app_are_checked() -> None:
    hostvars = {"apps": [GOOD], "ssh_port": 70000, "admin_keys": []}
    assert list(inventory.check_host(hostvars, unexpected, set(), "shop", None))
    assert list(inventory.check_host(hostvars, unexpected, set(), "shop", USED)) == []


# --- options of the playbooks ---------------------------------------------------------------------------------------

DATA = {"type": "string", "enum": ["keep", "delete"], "example": "delete"}
COMMAND = {"type": "string", "format": "command", "minLength": 1, "expected": "a command", "example": "flask routes"}


@pytest.mark.parametrize(
    ("name", "given", "entry", "expected"),
    [
        ("data", "all", DATA, "one of keep, delete"),
        ("data", 1, DATA, "one of keep, delete"),
        ("command", "", COMMAND, "a command"),
        ("command", "echo 'open", COMMAND, "a command"),
    ],
)
def test_an_invalid_option_is_reported_with_an_example(
    name: str, given: Any, entry: dict[str, Any], expected: str
) -> None:
    problem = inventory.check_option(name, {"given": given} | entry)
    assert problem
    assert problem.where == f"option -e {name}"
    assert problem.expected == expected
    assert problem.example == {"data": "-e data=delete", "command": "-e command='flask routes'"}[name]


@pytest.mark.parametrize(("name", "given", "entry"), [("data", "keep", DATA), ("command", "flask routes", COMMAND)])
def test_a_valid_option_is_accepted(name: str, given: str, entry: dict[str, Any]) -> None:
    assert inventory.check_option(name, {"given": given} | entry) is None


def test_an_app_that_is_to_be_removed_need_not_be_in_the_inventory() -> None:
    def problems_of(app: str | None, app_known: bool) -> dict[Problem, list[str]]:
        return inventory.check_hosts(
            {"web1": {"apps": [GOOD]}},
            lambda _, name, error: unexpected(name, error),
            app=app,
            app_required=True,
            keys=[],
            app_known=app_known,
        )

    assert problems_of("gone", app_known=False) == {}
    assert problems_of("gone", app_known=True) != {}
    assert problems_of("../etc", app_known=False) != {}
    assert problems_of(None, app_known=False) != {}


# --- paths of several keys and apps ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"media": {"url": "/m/", "path": "."}}, "media"),
        ({"media": {"url": "/m/", "path": "./private"}}, "media"),
        ({"media": {"url": "/m/", "path": "files"}, "shared_paths": ["files/app.db"]}, "media"),
    ],
)
def test_nginx_serves_no_other_data_of_an_app(keys: dict[str, Any], key: str) -> None:
    assert [problem.where for problem in problems(GOOD | keys)] == [f"app shop, key {key}"]


def test_a_shared_folder_can_be_served() -> None:
    assert problems(GOOD | {"media": {"url": "/m/", "path": "uploads"}, "shared_paths": ["uploads/"]}) == []


BELOW: dict[str, Any] = GOOD | {"name": "below", "domains": ["shop.example"], "path": "/shop/"}


@pytest.mark.parametrize(
    ("owner", "below", "key"),
    [
        ({"redirects": [{"from": "/shop/", "to": "/other"}]}, {}, "path"),
        ({"redirects": [{"from": "/shop/old", "to": "/new"}]}, {}, "path"),
        ({"health_path": "/shop/health"}, {}, "path"),
        ({"static": [{"url": "/shop/", "path": "static"}]}, {}, "path"),
        ({}, {"basic_auth": {"me": "$6$a$b"}, "nginx_extra": "location /shop/x/ { return 204; }"}, "nginx_extra"),
    ],
)
def test_apps_of_one_domain_do_not_take_each_others_requests(
    owner: dict[str, Any], below: dict[str, Any], key: str
) -> None:
    assert [problem.where for problem in problems(GOOD | owner, BELOW | below)] == [f"app below, key {key}"]


def test_an_app_below_another_one_with_a_path_does_not_take_its_files() -> None:
    deeper = BELOW | {"name": "deeper", "path": "/shop/static/"}
    assert [problem.where for problem in problems(GOOD, BELOW, deeper)] == ["app deeper, key path"]
