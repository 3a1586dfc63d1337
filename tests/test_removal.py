"""Stop and remove apps, without a host: which apps are found, what is left to do, and what the history says."""

from __future__ import annotations

import fnmatch
import pwd
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import app_redis, nginx, releases, removal
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases
from ansible_collections.blueoctopus.site.plugins.module_utils.removal import Removal, installed_apps

FIRST, SECOND = "20260101T000000Z-0000000001", "20260102T000000Z-0000000002"


class Account:
    """An entry of the password database."""

    def __init__(self, name: str, home: str) -> None:
        self.pw_name, self.pw_dir = name, home


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Releases:
    """An app with two good releases and data, on a host without systemd and nginx."""
    made = Releases("shop", tmp_path / "srv/shop", tmp_path / "sites")
    for release in (FIRST, SECOND):
        made.path(release).mkdir(parents=True)
        made.make_live(release)
        made.record("deploy", release, "ok")
    (made.root / "data").mkdir()
    (made.root / "data/orders.db").write_text("orders")
    monkeypatch.setattr(removal, "installed_units", lambda _: {})
    monkeypatch.setattr(removal, "stop_builds", lambda _: None)
    monkeypatch.setattr(removal, "systemctl", lambda *_: "")
    monkeypatch.setattr(nginx, "NGINX", str(tmp_path / "no-nginx"))
    monkeypatch.setattr(nginx, "ROOT", tmp_path)
    monkeypatch.setattr(nginx, "reload_pending", lambda: tmp_path / ".reload-pending")
    monkeypatch.setattr(removal, "BUILD_CACHES", tmp_path / "cache/private")
    return made


def test_a_stopped_app_keeps_releases_and_data_and_has_no_site(store: Releases) -> None:
    Removal(store).stop("me")
    assert store.complete() == [FIRST, SECOND]
    assert (store.root / "data/orders.db").read_text() == "orders"
    assert not store.site.is_symlink()
    assert store.live == ""
    assert not Removal(store).runs


def test_no_run_starts_a_stopped_app_again_and_a_deploy_does(store: Releases) -> None:
    Removal(store).stop("me")
    assert store.confirmed == ""
    store.make_live(SECOND)
    store.record("deploy", SECOND, "ok")
    assert store.confirmed == SECOND
    assert store.previous() == FIRST


def test_a_stopped_app_is_recorded_once(store: Releases) -> None:
    for _ in range(2):
        Removal(store).stop("me")
    assert [event["action"] for event in store.history()] == ["deploy", "deploy", "stop"]


def test_an_interrupted_deploy_of_an_app_that_is_stopped_has_failed(store: Releases) -> None:
    new = "20260103T000000Z-0000000003"
    store.path(new).mkdir()
    (store.folder / f".building-{new}").mkdir()
    store.record("deploy", new, "begun", by="you")
    for _ in range(2):
        Removal(store).stop("me")
    ends = [(event["action"], event["release"], event["result"], event["by"]) for event in store.history()[3:]]
    assert ends == [("deploy", new, "failed", "you"), ("stop", SECOND, "ok", "me")]
    assert sorted(path.name for path in store.folder.iterdir()) == [FIRST, SECOND]


def test_a_failed_deploy_of_a_stopped_app_leaves_it_stopped_with_its_good_releases(store: Releases) -> None:
    Removal(store).stop("me")
    failed = "20260103T000000Z-0000000003"
    store.path(failed).mkdir()
    store.record("deploy", failed, "begun")
    store.record("deploy", failed, "ok")  # confirmed on this host, and then undone for another one
    store.remove(failed)
    assert store.confirmed == ""
    assert store.good() == [FIRST, SECOND]


def test_a_stopped_app_stays_stopped_when_the_release_of_its_last_event_is_gone(store: Releases) -> None:
    Removal(store).stop("me")
    store.remove(SECOND)
    assert store.stopped
    assert store.confirmed == ""
    assert store.good() == [FIRST]


def test_data_behind_a_link_is_not_deleted(store: Releases, tmp_path: Path) -> None:
    (store.root / "data").rename(tmp_path / "volume")
    (store.root / "data").symlink_to(tmp_path / "volume")
    with pytest.raises(OSError, match="is a link or a mount point"):
        Removal(store).check(data=True)


def test_data_on_a_file_system_below_the_data_is_not_deleted(store: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    Removal(store).check(data=True)
    mounts = store.root.parent / "mountinfo"
    place = str(store.root / "data/my media").replace(" ", r"\040")
    mounts.write_text(f"36 35 98:0 /mnt1 {place} rw,noatime master:1 - ext3 /dev/root rw\n")
    monkeypatch.setattr(removal, "MOUNTS", mounts)
    with pytest.raises(OSError, match="data/my media is a link or a mount point"):
        Removal(store).check(data=True)


def test_a_folder_of_an_app_that_is_a_mount_point_is_no_problem_while_its_data_stays(
    store: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = store.root.parent / "mountinfo"
    mounts.write_text(
        f"36 35 98:0 / {store.root} rw - ext4 /dev/sdb rw\n37 35 98:0 / {store.root}/data/m rw - nfs a rw\n"
    )
    monkeypatch.setattr(removal, "MOUNTS", mounts)
    Removal(store).check(data=False)
    with pytest.raises(OSError, match="is a link or a mount point"):
        Removal(store).check(data=True)


def test_services_of_other_programs_with_the_name_of_the_app_are_not_stopped() -> None:
    patterns = Removal(Releases("user", Path("/srv/user"))).services
    own = [f"user@{FIRST}.service", f"user.worker.1@{FIRST}.service", "user.run-1a.service"]
    assert all(any(fnmatch.fnmatchcase(unit, pattern) for pattern in patterns) for unit in own)
    others = ["user@1000.service", "user@15-main.service", "user-runtime-dir@1000.service"]
    assert not any(fnmatch.fnmatchcase(unit, pattern) for unit in others for pattern in patterns)


def test_a_removed_app_keeps_only_its_data_and_its_history(store: Releases) -> None:
    Removal(store).stop("me")
    Removal(store).remove(data=False)
    assert sorted(path.name for path in store.root.iterdir()) == ["data", "history.jsonl"]
    assert list(Removal(store).remaining(data=False)) == []


def test_what_restores_have_kept_stays_with_the_data(store: Releases) -> None:
    kept = {"data.before-20260102T030405Z", "data.undone-20260102T030405Z"}
    for name in kept:
        (store.root / name).mkdir()
    Removal(store).stop("me")
    Removal(store).remove(data=False)
    assert kept <= {path.name for path in store.root.iterdir()}


def test_an_app_that_is_removed_with_its_data_leaves_nothing(store: Releases) -> None:
    (removal.BUILD_CACHES / "release-build-shop").mkdir(parents=True)
    Removal(store).stop("me")
    Removal(store).remove(data=True)
    assert not store.root.exists()
    assert not (removal.BUILD_CACHES / "release-build-shop").exists()


def test_a_link_in_the_data_is_not_followed(store: Releases, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    (store.root / "data/link").symlink_to(tmp_path / "other")
    Removal(store).stop("me")
    Removal(store).remove(data=True)
    assert (tmp_path / "other/file").exists()


def test_apps_are_found_by_their_folder_and_by_their_account(store: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    root = store.root.parent
    accounts = [Account("half", f"{root}/half/data"), Account("www-data", "/var/www"), Account("x", f"{root}/y/data")]
    monkeypatch.setattr(pwd, "getpwall", lambda: accounts)
    (root / "ftp/pub").mkdir(parents=True)
    assert installed_apps(root, releases.SITES) == ["half", "shop"]


# --- Redis ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def redis(store: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> app_redis.Redis:
    """The instance of the app, with data."""
    monkeypatch.setattr(app_redis, "UNITS", tmp_path / "units")
    monkeypatch.setattr(app_redis, "CONFIG", tmp_path / "config")
    monkeypatch.setattr(app_redis, "DATA", tmp_path / "redis")
    monkeypatch.setattr(app_redis, "systemctl", lambda *_: "")
    made = app_redis.Redis(store.name)
    for path in (made.unit, made.config, made.data / "appendonly.aof"):
        path.parent.mkdir(parents=True)
        path.write_text("")
    return made


def test_redis_stops_with_its_app_and_its_data_stays(store: Releases, redis: app_redis.Redis) -> None:
    assert redis.unit.exists()
    Removal(store).stop("me")
    assert not redis.unit.exists()
    assert not redis.config.exists()
    assert not Removal(store).runs
    Removal(store).remove(data=False)
    assert redis.data.is_dir()


def test_the_data_of_redis_is_deleted_with_that_of_its_app(store: Releases, redis: app_redis.Redis) -> None:
    for name in ("shop.before-20260102T030405Z", "shop-two"):
        (redis.data.parent / name).mkdir()
    Removal(store).stop("me")
    Removal(store).remove(data=True)
    assert [path.name for path in redis.data.parent.iterdir()] == ["shop-two"]
