"""The databases beside the apps: which host has them, who connects, the environment of the apps, what can't work."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.blueoctopus.site.plugins.filter.databases import (
    all_standbys,
    apps_with_database_on,
    database_clients,
    database_servers,
    databases_of,
    hosts_with_databases,
    redis_of,
    replica_addresses,
    root_certificates,
    server_address,
    slot_of,
    trusted_hosts,
    with_databases,
)
from ansible_collections.blueoctopus.site.plugins.plugin_utils.databases import (
    connections,
    find_database_problems,
    knows_connections,
    max_connections,
    standbys_of,
)
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import with_defaults

APP = {"name": "shop", "domains": ["shop.example"], "source": "app", "wsgi": "main:app"}
LOCAL = {"webservers": ["web1"]}
REMOTE = {"webservers": ["web1", "web2"], "databases": ["db1"]}


def hosts(**apps: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The variables of some webservers and of the host db1."""
    found: dict[str, dict[str, Any]] = {
        name: {"apps": entries, "ansible_host": f"10.0.0.{number}"}
        for number, (name, entries) in enumerate(apps.items(), start=1)
    }
    return found | {"db1": {"ansible_host": "10.0.0.9"}}


def problems(hostvars: dict[str, dict[str, Any]], groups: dict[str, list[str]], *run: str) -> list[str]:
    """What is wrong: the place and the value of each problem."""
    found = find_database_problems(run or list(hostvars), hostvars, groups)
    return [f"{host}, {problem.where}: {problem.found}" for host, problem in found]


# --- which host -----------------------------------------------------------------------------------------------------


def test_without_a_database_host_the_webserver_has_the_database_and_needs_no_password() -> None:
    hostvars = hosts(web1=[APP | {"postgresql": True}, APP | {"name": "plain"}])
    assert databases_of("web1", hostvars, LOCAL) == [{"name": "shop", "extensions": [], "password": False}]
    assert database_clients("web1", hostvars, LOCAL) == []
    assert database_servers("web1", hostvars, LOCAL) == []


def test_a_database_host_has_the_databases_of_all_webservers_with_passwords() -> None:
    app = APP | {"postgresql": {"extensions": ["pg_trgm"]}}
    hostvars = hosts(web1=[app], web2=[app, APP | {"name": "blog", "postgresql": True}])
    names = [(database["name"], database["password"]) for database in databases_of("db1", hostvars, REMOTE)]
    assert names == [("blog", True), ("shop", True)]
    assert databases_of("web1", hostvars, REMOTE) == []
    assert database_clients("db1", hostvars, REMOTE) == ["10.0.0.1", "10.0.0.2"]
    assert database_servers("web2", hostvars, REMOTE) == ["db1"]


def test_the_apps_of_a_webserver_with_a_database_on_certain_hosts() -> None:
    apps: list[dict[str, Any]] = [
        APP | {"postgresql": {"host": "web1"}},
        APP | {"name": "blog", "postgresql": True},
        APP | {"name": "plain"},
    ]
    hostvars = hosts(web1=apps, web2=[])
    assert apps_with_database_on("web1", hostvars, REMOTE, ["db1"]) == ["blog"]
    assert apps_with_database_on("web1", hostvars, REMOTE, ["web1"]) == ["shop"]
    assert apps_with_database_on("web1", hostvars, REMOTE, []) == []
    assert apps_with_database_on("db1", hostvars, REMOTE, ["db1"]) == []


def test_an_app_can_keep_its_database_on_the_webserver_beside_a_database_host() -> None:
    hostvars = hosts(web1=[APP | {"postgresql": {"host": "web1"}}], web2=[])
    assert [database["name"] for database in databases_of("web1", hostvars, REMOTE)] == ["shop"]
    assert databases_of("db1", hostvars, REMOTE) == []


def test_addresses_of_a_private_network_replace_those_of_the_login() -> None:
    hostvars = hosts(web1=[APP | {"postgresql": True}], web2=[])
    hostvars["web1"]["postgresql_client_addresses"] = ["192.168.1.5"]
    assert database_clients("db1", hostvars, REMOTE) == ["192.168.1.5"]
    assert server_address(hostvars["db1"] | {"postgresql_address": "192.168.1.9"}, "db1") == "192.168.1.9"
    assert server_address({}, "db1") == "db1"


# --- the environment ------------------------------------------------------------------------------------------------


def test_the_url_of_a_database_on_the_webserver_is_that_of_its_socket_and_no_secret() -> None:
    app = with_databases(with_defaults(APP | {"postgresql": True}), "web1", hosts(web1=[]), LOCAL, {})
    assert app["environment"] == {"DATABASE_URL": "postgresql://shop@/shop?host=/run/postgresql"}
    assert app["secrets"] == {}


def test_the_url_of_a_database_on_another_host_is_a_secret_and_verifies_the_host() -> None:
    passwords = {"db1": {"content": base64.b64encode(json.dumps({"shop": "pass-word_1"}).encode()).decode()}}
    app = with_databases(with_defaults(APP | {"postgresql": True}), "web1", hosts(web1=[]), REMOTE, passwords)
    assert app["environment"] == {}
    assert app["secrets"]["DATABASE_URL"] == (
        "postgresql://shop:pass-word_1@10.0.0.9/shop?sslmode=verify-full&sslrootcert=/etc/ssl/databases/db1.pem"
    )


def test_a_run_without_the_database_host_builds_no_release_with_an_unknown_password() -> None:
    with pytest.raises(AnsibleFilterError, match="did not reach db1"):
        with_databases(with_defaults(APP | {"postgresql": True}), "web1", hosts(web1=[]), REMOTE, {})


def test_other_variables_of_the_environment_stay() -> None:
    app = with_databases(
        with_defaults(APP | {"redis": True, "environment": {"A": 1}}), "web1", hosts(web1=[]), LOCAL, {}
    )
    assert app["environment"] == {"A": 1, "REDIS_URL": "unix:///run/app-redis/shop/redis.sock"}


def test_an_instance_of_redis_has_the_defaults_of_omitted_settings() -> None:
    apps: list[dict[str, Any]] = [
        APP | {"redis": {"memory": "1g"}},
        APP | {"name": "plain"},
        APP | {"name": "off", "redis": False},
    ]
    assert redis_of(apps) == [{"name": "shop", "memory": "1g", "persistence": "aof", "when_full": "refuse"}]


# --- connections ----------------------------------------------------------------------------------------------------


def test_connections_are_those_of_all_threads_and_processes_and_twice_for_the_app_that_is_deployed() -> None:
    shop = APP | {
        "postgresql": True,
        "workers": 3,
        "threads": 4,
        "processes": [{"name": "w", "command": "w", "count": 2}],
    }
    blog = APP | {"name": "blog", "postgresql": True, "threads": 1}
    hostvars = hosts(web1=[shop, blog], web2=[shop])
    # shop: 2 hosts with 3 x 4 + 2; blog: 5 workers on 2 cores; once more for shop; 10 are reserved
    assert connections("db1", hostvars, REMOTE, {"web1": 2}) == 28 + 5 + 28 + 10


@pytest.mark.parametrize("workers", [{}, {"workers": 3}])
def test_a_number_of_connections_without_the_cores_of_a_webserver_is_not_exact(workers: dict[str, int]) -> None:
    app = APP | {"postgresql": True} | workers
    hostvars = hosts(web1=[app], web2=[app, APP | {"name": "plain"}])
    assert knows_connections("db1", hostvars, REMOTE, {"web1": 2, "web2": 2})
    assert knows_connections("db1", hostvars, REMOTE, {"web1": 2}) == bool(workers)  # --limit leaves web2 out


@pytest.mark.parametrize(("needed", "accepted"), [(10, 100), (100, 100), (101, 150), (450, 450)])
def test_max_connections_changes_in_steps(needed: int, accepted: int) -> None:
    assert max_connections(needed) == accepted


# --- what can't work ------------------------------------------------------------------------------------------------


def test_a_valid_inventory_has_no_problem() -> None:
    app = APP | {"postgresql": True, "redis": True}
    assert problems(hosts(web1=[app], web2=[app]), REMOTE) == []
    assert problems(hosts(web1=[app]), LOCAL) == []


@pytest.mark.parametrize(
    ("app", "groups", "found"),
    [
        ({"postgresql": {"host": "db7"}}, REMOTE, "web1, app shop, key postgresql: host: db7"),
        ({"postgresql": True}, REMOTE | {"databases": ["db1", "db2"]}, "web1, app shop, key postgresql: no host"),
        ({"postgresql": True, "network": False}, REMOTE, "web1, app shop, key network: False"),
        (
            {"postgresql": True, "secrets": {"DATABASE_URL": "x"}},
            LOCAL,
            "web1, app shop, key secrets: DATABASE_URL, beside the key postgresql",
        ),
        (
            {"redis": True, "environment": {"REDIS_URL": "x"}},
            LOCAL,
            "web1, app shop, key environment: REDIS_URL, beside the key redis",
        ),
    ],
)
def test_impossible_settings_are_named(app: dict[str, Any], groups: dict[str, list[str]], found: str) -> None:
    assert problems(hosts(web1=[APP | app], web2=[]), groups) == [found]


def test_two_webservers_with_a_database_each_for_one_app_are_refused() -> None:
    app = APP | {"postgresql": True}
    found = problems(hosts(web1=[app], web2=[app]), {"webservers": ["web1", "web2"]})
    assert [line.split(",")[0] for line in found] == ["web1", "web2"]
    assert "each with a database of its own" in found[0]


def test_a_run_that_leaves_out_the_database_host_is_refused() -> None:
    found = problems(hosts(web1=[APP | {"postgresql": True}], web2=[]), REMOTE, "web1")
    assert found == ["web1, option --limit: a run without db1, which has the database of shop"]
    assert problems(hosts(web1=[APP | {"postgresql": True}], web2=[]), REMOTE, "web2") == []


def test_a_database_host_without_backups_beside_a_webserver_with_them_is_refused() -> None:
    hostvars = hosts(web1=[APP | {"postgresql": True}], web2=[])
    hostvars["web1"]["backup_targets"] = targets = [{"name": "store", "host": "store1"}]
    (shown,) = problems(hostvars, REMOTE)
    assert shown == ("web1, key backup_targets: set for web1, but not for db1, which has the database of shop")
    hostvars["db1"]["backup_targets"] = targets
    assert problems(hostvars, REMOTE) == []


def test_only_hosts_with_a_database_or_an_instance_of_redis_have_the_play_for_them() -> None:
    hostvars = hosts(web1=[APP | {"postgresql": True}], web2=[APP], web3=[APP | {"redis": True}])
    groups = {"webservers": ["web1", "web2", "web3"], "databases": ["db1"]}
    assert hosts_with_databases(hostvars, groups) == ["web3", "db1"]
    assert hosts_with_databases(hosts(web1=[APP]), LOCAL) == []


def test_a_webserver_whose_address_is_a_name_needs_its_addresses_for_the_firewall() -> None:
    hostvars = hosts(web1=[APP | {"postgresql": True}], web2=[])
    hostvars["web1"]["ansible_host"] = "web1.example.org"
    assert problems(hostvars, REMOTE)[0].startswith("web1, key postgresql_client_addresses: nothing")


# --- standbys -------------------------------------------------------------------------------------------------------

STANDBY: dict[str, list[str]] = {"webservers": ["web1"], "databases": ["db1", "db2"]}


@pytest.fixture
def pair() -> dict[str, dict[str, Any]]:
    """A webserver, a primary and its standby."""
    found = hosts(web1=[APP | {"postgresql": True}])
    return found | {"db2": {"ansible_host": "10.0.0.10", "postgresql_standby_of": "db1"}}


def test_a_standby_has_the_databases_and_clients_of_its_primary_but_creates_none(
    pair: dict[str, dict[str, Any]],
) -> None:
    assert databases_of("db2", pair, STANDBY) == databases_of("db1", pair, STANDBY) != []
    assert database_clients("db2", pair, STANDBY) == ["10.0.0.1"]
    assert hosts_with_databases(pair, STANDBY) == ["db1"]
    assert connections("db2", pair, STANDBY, {"web1": 2}) == connections("db1", pair, STANDBY, {"web1": 2})
    assert [knows_connections(host, pair, STANDBY, {"web1": 2}) for host in ("db1", "db2")] == [True, False]


def test_each_of_the_pair_accepts_the_other_one_as_a_standby(pair: dict[str, dict[str, Any]]) -> None:
    assert (all_standbys(pair, STANDBY), standbys_of("db1", pair, STANDBY)) == (["db2"], ["db2"])
    assert replica_addresses("db1", pair, STANDBY) == ["10.0.0.10"]
    assert replica_addresses("db2", pair, STANDBY) == ["10.0.0.9"]
    assert replica_addresses("web1", pair, STANDBY) == []
    assert slot_of("db-2.Example") == "standby_db_2_example"


def test_an_app_connects_to_the_one_that_is_the_primary(pair: dict[str, dict[str, Any]]) -> None:
    app = with_defaults(APP | {"postgresql": True})
    passwords = {"db1": {"content": base64.b64encode(json.dumps({"shop": "secret"}).encode()).decode()}}
    url = with_databases(app, "web1", pair, STANDBY, passwords)["secrets"]["DATABASE_URL"]
    assert url.startswith("postgresql://shop:secret@/shop?host=10.0.0.9,10.0.0.10&target_session_attrs=read-write&")


def test_an_app_does_not_wait_for_a_lost_primary_for_minutes(pair: dict[str, dict[str, Any]]) -> None:
    app = with_defaults(APP | {"postgresql": True})
    passwords = {"db1": {"content": base64.b64encode(json.dumps({"shop": "secret"}).encode()).decode()}}
    url = with_databases(app, "web1", pair, STANDBY, passwords)["secrets"]["DATABASE_URL"]
    options = {key: int(value[0]) for key, value in parse_qs(urlsplit(url).query).items() if value[0].isdigit()}
    assert options["connect_timeout"] <= 5  # seconds
    assert options["tcp_user_timeout"] <= 15_000  # milliseconds, for a connection that sends
    # For a connection that waits for a response.
    assert options["keepalives_idle"] + options["keepalives_interval"] * options["keepalives_count"] <= 30


def test_a_webserver_verifies_both_and_keeps_what_it_has_in_a_run_without_one_of_them(
    pair: dict[str, dict[str, Any]],
) -> None:
    roots = {"db1": "one\n", "db2": "two\n", "db3": "three\n"}
    assert root_certificates(roots, "web1", pair, STANDBY) == {"hosts/db1": "one\n", "hosts/db2": "two\n"}
    assert root_certificates({"db1": "one\n"}, "web1", pair, STANDBY) == {"hosts/db1": "one\n"}
    assert trusted_hosts("web1", pair, STANDBY) == {"db1": ["db1", "db2"], "db2": ["db1", "db2"]}


def test_a_webserver_verifies_a_database_host_without_a_standby_alone() -> None:
    hostvars = hosts(web1=[APP | {"postgresql": True}])
    assert root_certificates({"db1": "one\n"}, "web1", hostvars, REMOTE | {"webservers": ["web1"]}) == {"db1": "one\n"}
    assert trusted_hosts("web1", hostvars, REMOTE) == {}


def test_a_database_host_with_a_standby_runs_no_apps(pair: dict[str, dict[str, Any]]) -> None:
    pair["db1"]["apps"] = []
    found = problems(pair, STANDBY | {"webservers": ["web1", "db1"]})
    assert "db2, key postgresql_standby_of: db1 is in webservers" in found


@pytest.mark.parametrize("primary", ["db3", "web1"])
def test_a_standby_of_a_host_without_databases_is_a_problem(pair: dict[str, dict[str, Any]], primary: str) -> None:
    pair["db2"]["postgresql_standby_of"] = primary
    assert f"db2, key postgresql_standby_of: {primary}" in problems(pair, STANDBY)


def test_a_standby_of_a_standby_is_a_problem(pair: dict[str, dict[str, Any]]) -> None:
    pair["db3"] = {"ansible_host": "10.0.0.11", "postgresql_standby_of": "db2"}
    assert problems(pair, STANDBY | {"databases": ["db1", "db2", "db3"]}) == ["db3, key postgresql_standby_of: db2"]


def test_a_run_for_the_standby_without_its_primary_is_a_problem(pair: dict[str, dict[str, Any]]) -> None:
    assert problems(pair, STANDBY, "db2") == ["db2, option --limit: a run without db1, of which db2 is a standby"]
    assert problems(pair, STANDBY, "web1", "db1") == []


def test_an_app_with_its_database_on_a_standby_is_a_problem(pair: dict[str, dict[str, Any]]) -> None:
    pair["web1"]["apps"] = [APP | {"postgresql": {"host": "db2"}}]
    assert "web1, app shop, key postgresql: host: db2" in problems(pair, STANDBY)
