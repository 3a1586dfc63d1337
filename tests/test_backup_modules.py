"""The filters and modules of backups, and the units of the role."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.filter import backups as filters
from ansible_collections.blueoctopus.site.plugins.module_utils import backup_status
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import Lock
from ansible_collections.blueoctopus.site.plugins.modules import backup_access, backup_keys, backup_restore, backup_run
from ansible_collections.blueoctopus.site.plugins.plugin_utils.inventory import check_backup_targets

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"
APP = {"domains": ["shop.example"], "source": "app", "wsgi": "main:app"}
SERVERS = {"store1": {"address": "198.51.100.9", "port": 2222, "host_key": KEY}}
Module = Callable[..., dict[str, Any]]
Render = Callable[..., str]


class Ended(Exception):
    """A module has ended, with its result."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Module:
    """Run a module in this process, and return its result."""

    class Fake:
        check_mode = False

        def __init__(self, argument_spec: dict[str, Any], **_: Any) -> None:
            self.params = {name: spec.get("default") for name, spec in argument_spec.items()} | given

        def exit_json(self, **result: Any) -> None:
            raise Ended(result)

        def fail_json(self, **result: Any) -> None:
            raise Ended({"failed": True} | result)

        def run_command(self, argv: list[str], **_: Any) -> tuple[int, str, str]:
            done = subprocess.run(argv, capture_output=True, text=True)
            return done.returncode, done.stdout, done.stderr

    given: dict[str, Any] = {}

    def call(module: Any, **params: Any) -> dict[str, Any]:
        given.clear()
        given.update(params)
        monkeypatch.setattr(module, "AnsibleModule", Fake)
        with pytest.raises(Ended) as ended:
            module.main()
        return dict(ended.value.args[0])

    return call


# --- filters --------------------------------------------------------------------------------------------------------


def test_a_host_backs_up_the_data_folders_of_its_apps() -> None:
    hostvars = {"web1": {"apps": [APP | {"name": "shop"}]}, "web2": {"apps": [APP | {"name": "news"}]}}
    groups = {"webservers": ["web1", "web2"]}
    assert filters.backup_apps("web1", hostvars, groups) == [{"name": "shop", "data": True, "database": False}]


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
    text = "\n".join(filters.restore_lines(plan, "web1"))
    assert "web1: restored shop from the backup of 2026-01-02 03:04:05: 3 files, 2 tables, 9 rows." in text
    assert "/srv/shop/data.before-S, database shop.before-S" in text
    assert "-e former=delete" in text
    assert "backup remove-copy shop-copy" in "\n".join(filters.restore_lines(plan | {"as_name": "shop-copy"}, "web1"))


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


# --- modules --------------------------------------------------------------------------------------------------------


def test_a_key_gives_append_only_access_to_its_own_repository() -> None:
    line = backup_access.line("web1", f"{KEY} somebody@host", "backups", Path("/srv/backups"), 0)
    assert line == (
        'restrict,command="case $SSH_ORIGINAL_COMMAND in archive*) exec /usr/bin/python3 -IB '
        "/usr/local/lib/backup/store.py --append-only /srv/backups/archives/web1;; *) exec "
        "/usr/bin/rclone --config /dev/null serve restic --stdio --append-only "
        f'/srv/backups/repositories/web1;; esac" {KEY} backups web1\n'
    )
    pruning = backup_access.line("web1", KEY, "prune", Path("/r"), time.time() + 60)
    assert "--append-only" not in pruning
    assert ',expiry-time="20' in pruning


@pytest.mark.parametrize(("name", "key"), [('a" b', KEY), ("../x", KEY), ("web1", "no key"), ("web1", "")])
def test_a_name_or_key_that_is_not_one_is_refused(name: str, key: str) -> None:
    with pytest.raises(ValueError, match="not a host with a public key"):
        backup_access.line(name, key, "backups", Path("/r"), 0)


def test_keys_of_other_hosts_and_purposes_stay(run: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "chown", lambda *_: None)
    home = tmp_path / "backups"
    keys = home / ".ssh/authorized_keys"

    def access(name: str, **params: Any) -> bool:
        return bool(run(backup_access, home=str(home), clients=[{"name": name, "key": KEY}], **params)["changed"])

    assert access("web1")
    assert not access("web1")
    assert access("web2")
    assert access("web2", purpose="prune")
    assert len(keys.read_text().splitlines()) == 4
    assert access("web2", purpose="prune", state="absent")
    assert [line.split()[-1] for line in keys.read_text().splitlines()[1:]] == ["web1", "web2"]
    assert "prune" not in keys.read_text()


def test_the_password_is_shown_once_and_never_changed(run: Module, tmp_path: Path) -> None:
    folder = str(tmp_path / "etc")
    first = run(backup_keys, folder=folder)
    assert first["changed"]
    assert len(first["new_password"]) == 35
    assert first["public_key"].startswith("ssh-ed25519 ")
    second = run(backup_keys, folder=folder)
    assert second == {"changed": False, "public_key": first["public_key"], "new_password": ""}
    assert run(backup_keys, folder=folder, password=first["new_password"])["changed"] is False
    assert "differs from the password" in run(backup_keys, folder=folder, password="other")["msg"]
    assert (tmp_path / "etc/password").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "etc").stat().st_mode & 0o777 == 0o700
    given = run(backup_keys, folder=str(tmp_path / "new"), password="from-the-vault")
    assert given["new_password"] == ""
    assert (tmp_path / "new/password").read_text() == "from-the-vault\n"


def test_options_reach_the_program_as_single_words() -> None:
    params = {"name": "shop", "step": "prepare", "at": "2026-01-02 03:04", "as_name": "", "replace": True}
    words = backup_restore.command(params | {"target": "", "from_host": "", "config": ""})
    assert words[1:] == ["restore", "shop", "--json", "--step", "prepare", "--at=2026-01-02 03:04", "--yes=replace"]


def test_a_run_neither_undoes_the_restore_of_another_one_nor_takes_its_lock(
    run: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "backup"
    program.write_text(f"#!/bin/sh\necho \"$@\" >>{tmp_path}/calls\necho '{{}}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(backup_restore, "PROGRAM", str(program))
    monkeypatch.setattr(backup_restore, "PLANS", str(tmp_path))
    monkeypatch.setattr(backup_restore, "Lock", lambda name: Lock(name, tmp_path / "locks"))
    (tmp_path / "shop.json").write_text('{"stamp": "20260102T030405Z"}')
    lock = Lock("shop", tmp_path / "locks")
    assert lock.take("restore-20260102T030405Z", {"by": "ann", "since": ""})
    assert "is being changed by ann" in run(backup_restore, name="shop", step="prepare", by="bob")["msg"]
    assert not run(backup_restore, name="shop", step="undo", stamp="20270102T030405Z")["changed"]
    assert lock.token == "restore-20260102T030405Z"
    assert not (tmp_path / "calls").exists()
    assert run(backup_restore, name="shop", step="undo", stamp="20260102T030405Z")["changed"]
    assert lock.token == ""
    assert "--stamp=20260102T030405Z" in (tmp_path / "calls").read_text()


def test_a_restore_that_takes_long_keeps_its_lock(run: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, renewed = tmp_path / "backup", tmp_path / "locks/shop/renewed"
    # It succeeds when somebody writes its renewal again.
    program.write_text(
        f"#!/bin/sh\necho 0 >{renewed}\nfor n in $(seq 100); do\n"
        f"grep -qx 0 {renewed} || exec echo '{{}}'\nsleep 0.1\ndone\n"
        "echo the lock was not renewed >&2\nexit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(backup_restore, "PROGRAM", str(program))
    monkeypatch.setattr(backup_restore, "Lock", lambda name: Lock(name, tmp_path / "locks"))
    monkeypatch.setattr(backup_restore, "RENEWAL_INTERVAL", 0.1, raising=False)
    result = run(backup_restore, name="shop", step="prepare", by="ann")
    assert "failed" not in result, result
    assert Lock("shop", tmp_path / "locks").token.startswith("restore-")


def test_results_since_the_start_are_shown() -> None:
    entry = {"time": 100, "size": 2048, "added": 10, "seconds": 1.5, "error": ""}
    status = {
        "backups": {
            "shop": {"store": entry, "cloud": entry | {"error": "down", "failed": 100}},
            "old": {"store": entry | {"time": 1}},
        }
    }
    lines, problems = backup_run.backup_lines(status, 100)
    assert lines == ["shop to store: 2.0 KiB, 10 B new, 1.5 s"]
    assert problems == ["shop to cloud: down"]
    drills = {"drills": {"shop": {"time": 100, "target": "store", "error": "", "rows": 3, "size": 5, "seconds": 2}}}
    assert backup_run.drill_lines(drills, 100) == (["shop from store: 3 rows, 5 B, 2 s"], [])
    drills["drills"]["shop"]["note"] = "not loaded"
    assert backup_run.drill_lines(drills, 100)[0][1] == "  not loaded"


# --- the status -----------------------------------------------------------------------------------------------------

HOUR = 3600
SETTINGS = {
    "apps": [{"name": "shop"}],
    "targets": [{"name": "store"}],
    "max_age": {"backup": 50, "check": 340, "drill": 340},
}


@pytest.mark.parametrize(
    ("backup", "target", "drill", "problem"),
    [
        ({"time": 999 * HOUR}, {"checked": 999 * HOUR}, {"time": 999 * HOUR}, ""),
        ({"time": 900 * HOUR}, {"checked": 999 * HOUR}, {"time": 999 * HOUR}, "no backup on store for 50 hours"),
        (
            {"time": 999 * HOUR, "error": "full\nmore"},
            {"checked": 999 * HOUR},
            {"time": 999 * HOUR},
            "store failed: full",
        ),
        ({"time": 999 * HOUR}, {"checked": 1 * HOUR}, {"time": 999 * HOUR}, "store was not checked for 340 hours"),
        ({"time": 999 * HOUR}, {"error": "damaged"}, {"time": 999 * HOUR}, "the check of store failed: damaged"),
        ({"time": 999 * HOUR}, {"checked": 999 * HOUR}, {"time": 9 * HOUR}, "restored a backup for 340 hours"),
        ({"time": 999 * HOUR}, {"checked": 999 * HOUR}, {"error": "no rows"}, "the last drill failed: no rows"),
    ],
)
def test_what_failed_or_is_too_old_is_a_problem(
    backup: dict[str, Any], target: dict[str, Any], drill: dict[str, Any], problem: str
) -> None:
    status = {"backups": {"shop": {"store": backup}}, "targets": {"store": target}, "drills": {"shop": drill}}
    found = list(backup_status.find_problems("shop", SETTINGS, status, 0, 1000 * HOUR))
    assert len(found) == (1 if problem else 0)
    assert problem in "".join(found)


def test_a_new_host_has_time_for_its_first_backup_and_an_unknown_app_is_a_problem() -> None:
    empty: dict[str, Any] = {"backups": {}, "targets": {}, "drills": {}}
    assert list(backup_status.find_problems("shop", SETTINGS, empty, 999 * HOUR, 1000 * HOUR)) == []
    assert "run playbooks/site.yml" in next(backup_status.find_problems("new", SETTINGS, empty, 0, 1))


def test_the_status_of_a_host_shows_the_app_that_is_worst_off() -> None:
    assert backup_status.summary({}, 0) is None
    now = 1_767_322_800.0  # 2026-01-02 03:00
    status = {
        "settings": {
            "since": 0,
            "apps": [{"name": "shop"}, {"name": "blog"}],
            "targets": SETTINGS["targets"],
            "max_age": SETTINGS["max_age"],
        },
        "backups": {
            "shop": {"store": {"time": now - 7200, "size": 20, "error": ""}},
            "blog": {"store": {"time": now - 3600, "size": 2, "error": "No space left"}},
            "removed": {"store": {"time": 0, "size": 100, "error": "gone"}},
        },
        "targets": {"store": {"checked": now - 60, "error": ""}},
    }
    assert backup_status.summary(status, now) == {
        "last_backup": "2026-01-02T01:00:00Z",
        "last_check": "2026-01-02T02:59:00Z",
        "last_drill": None,
        "last_wal": None,
        "restorable_since": None,
        "size_bytes": 22,
        # No drill has been made since the beginning.
        "problem": "shop: no drill has restored a backup for 340 hours; "
        "blog: the last backup to store failed: No space left; "
        "blog: no drill has restored a backup for 340 hours",
    }


# --- the units ------------------------------------------------------------------------------------------------------


def test_the_units_run_without_root_and_can_write_only_to_their_own_folders(render: Render) -> None:
    for unit, user in (("backup@", "backups"), ("backup-drill@", "backups-restore"), ("backup-archive@", "backups")):
        text = render("backup", f"{unit}.service.j2", backup_targets=[{"name": "disk", "repository": "/mnt/disk"}])
        assert f"User={user}\n" in text
        assert "ProtectSystem=strict\n" in text
        assert "LoadCredential=password:/etc/backup/password\n" in text
        writable = next(line for line in text.splitlines() if line.startswith("ReadWritePaths="))
        assert writable.startswith("ReadWritePaths=/var/lib/backup")
        assert writable.endswith(" /mnt/disk")
    assert "\nCapabilityBoundingSet=\n" in render("backup", "backup-drill@.service.j2", backup_targets=[])


def test_the_base_backup_runs_as_the_user_of_the_cluster_who_cannot_read_the_backups(render: Render) -> None:
    text = render("backup", "backup-base.service.j2")
    assert "User=postgres\n" in text
    assert "ProtectSystem=strict\n" in text
    assert "LoadCredential" not in text


def test_the_timers_have_the_times_of_the_settings(render: Render) -> None:
    assert "OnCalendar=hourly\nRandomizedDelaySec=5min\n" in render(
        "backup", "backup.timer.j2", backup_time="hourly", backup_delay=5
    )
    assert "OnCalendar=monthly\n" in render("backup", "backup-drill.timer.j2", backup_drill_time="monthly")


def test_the_role_of_postgresql_is_made_once_and_may_connect_to_the_databases(render: Render) -> None:
    text = render("backup", "roles.sql.j2", backup_apps=[{"name": "shop", "data": True, "database": True}])
    assert "datname = 'shop'" in text
    assert text.count(r"\gexec") == 4
