"""The filters of backups: what is backed up, where to, and the report of a restore."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.filter import backups as filters
from ansible_collections.blueoctopus.site.plugins.plugin_utils.inventory import check_backup_targets

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"
APP = {"domains": ["shop.example"], "source": "app", "wsgi": "main:app"}
SERVERS = {"store1": {"address": "198.51.100.9", "port": 2222, "host_key": KEY}}


def test_a_host_backs_up_the_data_folders_of_its_apps() -> None:
    hostvars = {"web1": {"apps": [APP | {"name": "shop"}]}, "web2": {"apps": [APP | {"name": "news"}]}}
    groups = {"webservers": ["web1", "web2"]}
    assert filters.backup_apps("web1", hostvars, groups) == [
        {"name": "shop", "data": True, "database": False, "redis": ""}
    ]


@pytest.mark.parametrize(
    ("redis", "saved"),
    [(True, "aof"), ({"persistence": "rdb"}, "rdb"), ({"persistence": "none", "memory": "1g"}, ""), (False, "")],
)
def test_redis_is_backed_up_on_the_webserver_unless_it_is_a_cache(redis: Any, saved: str) -> None:
    hostvars = {"web1": {"apps": [APP | {"name": "shop", "postgresql": True, "redis": redis}]}, "db1": {}}
    groups = {"webservers": ["web1"], "databases": ["db1"]}
    (found,) = filters.backup_apps("web1", hostvars, groups)
    assert found["redis"] == saved
    assert found.get("redis_folder", "") == ("/var/lib/app-redis/shop" if saved else "")
    assert [app["redis"] for app in filters.backup_apps("db1", hostvars, groups)] == [""]


@pytest.mark.parametrize(
    ("postgresql", "databases", "owner"),
    [(True, [], "web1"), (True, ["db1"], "db1"), ({"host": "db2"}, ["db1", "db2"], "db2"), (False, ["db1"], "")],
)
def test_a_database_is_backed_up_where_it_is(postgresql: Any, databases: list[str], owner: str) -> None:
    hostvars = {"web1": {"apps": [APP | {"name": "shop", "postgresql": postgresql}]}}
    groups = {"webservers": ["web1"], "databases": databases}
    for host in ("web1", "db1", "db2"):
        found = filters.backup_apps(host, hostvars, groups)
        assert any(app["database"] for app in found) == (host == owner)
        assert any(app["data"] for app in found) == (host == "web1")


def test_each_host_has_its_own_folder_in_each_target() -> None:
    targets: list[dict[str, Any]] = [
        {"name": "store", "host": "store1"},
        {"name": "box", "repository": "sftp://u1@box.example:23/backups/", "host_key": KEY},
        {"name": "cloud", "repository": "s3:https://s3.example/bucket", "append_only": True},
    ]
    store, box, cloud = filters.backup_repositories(targets, "web1", SERVERS, {"AWS_ACCESS_KEY_ID": "x"})
    assert (store["repository"], store["ssh"], store["port"]) == ("rclone:web1", "backups-store@198.51.100.9", 2222)
    assert store["append_only"]
    assert store["pinned"]
    assert (box["repository"], box["ssh"], box["port"]) == (
        "sftp://u1@box.example:23/backups/web1",
        "u1@box.example",
        23,
    )
    assert not box["append_only"]
    assert (cloud["repository"], cloud["append_only"]) == ("s3:https://s3.example/bucket/web1", True)
    assert filters.backup_known_hosts(targets, SERVERS) == f"[198.51.100.9]:2222 {KEY}\n[box.example]:23 {KEY}\n"


def test_only_hosts_with_a_server_as_target_are_its_clients() -> None:
    hostvars: dict[str, dict[str, Any]] = {
        "web1": {"backup_targets": [{"name": "store", "host": "store1"}]},
        "web2": {"backup_targets": [{"name": "cloud", "repository": "s3:x/y"}]},
        "web3": {"backup_targets": [{"name": "store", "host": "store1"}]},
    }
    keys = {"web1": KEY, "web2": KEY}  # the run has not reached web3
    assert filters.backup_clients_of(keys, hostvars, "store1") == [{"name": "web1", "key": KEY}]


def test_addresses_are_those_that_are_numbers() -> None:
    hostvars = {"web1": {"ansible_host": "198.51.100.7"}, "web2": {"ansible_host": "web2.example"}, "db1": {}}
    assert filters.backup_addresses(hostvars, {"webservers": ["web1", "web2"], "databases": ["db1"]}) == [
        "198.51.100.7"
    ]


def test_a_restore_reports_where_the_former_data_is() -> None:
    plan = {
        "app": "shop",
        "as_name": "",
        "backup": "2026-01-02 03:04:05",
        "stamp": "S",
        "data": True,
        "database": True,
        "facts": {"files": 3, "tables": 2, "rows": 9, "note": "newer"},
    }
    text = "\n".join(filters.restore_lines(plan, "web1", "-i inventory/staging"))
    assert "web1: restored shop from the backup of 2026-01-02 03:04:05: 3 files, 2 tables, 9 rows." in text
    assert "/srv/shop/data.before-S, database shop.before-S" in text
    assert "playbooks/restore.yml -i inventory/staging -e app=shop -e former=delete" in text
    copy = filters.restore_lines(plan | {"as_name": "shop-copy"}, "web1", "")
    assert "backup remove-copy shop-copy" in "\n".join(copy)


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ({"name": "x"}, "neither a host nor a repository"),
        ({"name": "x", "host": "a", "repository": "/b"}, "a host and a repository"),
        ({"name": "x", "host": "a"}, ""),
    ],
)
def test_a_target_is_a_host_or_a_repository(target: dict[str, str], found: str) -> None:
    assert [problem.found for problem in check_backup_targets([target])] == ([found] if found else [])
