"""The live release of an app on a host: its links, and the account that runs it."""

from __future__ import annotations

import grp
import json
import os
import pwd
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import AccountError, Releases

V1, V2 = (f"2026010{n}T000000Z-{n:010x}" for n in (1, 2))


def build(store: Releases, release: str) -> None:
    """Create a complete release, with metadata."""
    store.path(release).mkdir(exist_ok=True)
    (store.path(release) / "release.json").write_text(json.dumps({"commit": f"commit of {release}"}))


# --- links ----------------------------------------------------------------------------------------------------------


def test_make_live_switches_the_links_to_the_release_and_its_site(store: Releases) -> None:
    for release in (V1, V2):
        build(store, release)
        store.make_live(release)
        assert store.live == release
        assert os.readlink(store.root / "live") == f"releases/{release}"
        assert os.readlink(store.site) == f"{store.root}/live/site.conf"
        assert store.has_site
    assert os.readlink(store.root / "before") == f"releases/{V1}"
    assert sorted(os.listdir(store.root)) == ["before", "live", "releases"]
    assert os.listdir(store.site.parent) == ["shop.conf"]


def test_a_site_that_is_a_file_is_replaced_with_the_link(store: Releases) -> None:
    store.site.parent.mkdir()
    store.site.write_text("server {}")
    assert not store.has_site
    build(store, V1)
    store.make_live(V1)
    assert store.has_site


def test_making_the_live_release_live_again_keeps_the_previous_one(store: Releases) -> None:
    for release in (V1, V2, V2):
        build(store, release)
        store.make_live(release)
    assert os.readlink(store.root / "before") == f"releases/{V1}"


def test_the_links_exist_at_every_moment(store: Releases) -> None:
    for release in (V1, V2):
        build(store, release)
        (store.path(release) / "site.conf").write_text(release)
    store.make_live(V1)
    found: set[str] = set()
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            try:
                found.add(store.site.read_text())
                found.add(os.path.basename(os.readlink(store.root / "live")))
            except OSError as error:
                found.add(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(300):
        store.make_live((V1, V2)[number % 2])
    ended.set()
    reader.join()
    assert found == {V1, V2}


def test_leftovers_of_a_crash_do_not_prevent_a_switch(store: Releases) -> None:
    build(store, V1)
    (store.root / ".live.new").symlink_to("nowhere")
    store.make_live(V1)
    assert store.live == V1
    assert not (store.root / ".live.new").is_symlink()


def test_clear_live_removes_the_links_to_the_release_and_its_site(store: Releases) -> None:
    build(store, V1)
    store.make_live(V1)
    store.clear_live()
    assert store.live == ""
    assert not store.has_site
    assert not store.site.is_symlink()
    store.clear_live()  # a second time changes nothing


# --- the interpreter ------------------------------------------------------------------------------------------------


def test_a_release_has_its_python_as_long_as_its_own_interpreter_is_the_same(store: Releases, tmp_path: Path) -> None:
    build(store, V1)
    python = tmp_path / "opt/python3.12"
    python.parent.mkdir()
    python.touch()
    venv = store.path(V1) / "venv"
    for folder in ("bin", "lib/python3.12"):
        (venv / folder).mkdir(parents=True)
    (venv / "bin/python").symlink_to(python)
    assert not store.has_python(V1)  # not known
    (store.path(V1) / "release.json").write_text(json.dumps({"python": str(python)}))
    assert store.has_python(V1)
    python.unlink()
    assert not store.has_python(V1)


def share_domain(store: Releases, release: str, text: str = "location /shop/ {}") -> None:
    """Create a complete release that has a path of another app's domain."""
    build(store, release)
    (store.path(release) / "site.conf").write_text("")
    (store.path(release) / "paths").mkdir(exist_ok=True)
    (store.path(release) / "paths/shop.example.conf").write_text(text)


def test_a_release_that_shares_a_domain_has_a_link_to_its_paths(store: Releases) -> None:
    share_domain(store, V1)
    store.make_live(V1)
    assert os.readlink(store.paths) == f"{store.root}/live/paths"
    assert (store.paths / "shop.example.conf").read_text() == "location /shop/ {}"
    assert store.has_site
    store.paths.unlink()
    assert not store.has_site


def test_a_release_that_shares_no_domain_removes_the_link_to_the_paths(store: Releases) -> None:
    share_domain(store, V1)
    build(store, V2)
    for release, has_link in ((V1, True), (V2, False), (V1, True)):
        store.make_live(release)
        assert store.paths.is_symlink() is has_link
        assert store.has_site
    store.clear_live()
    assert not store.paths.is_symlink()


def test_nginx_reloads_when_only_the_paths_differ(store: Releases) -> None:
    share_domain(store, V1)
    share_domain(store, V2)
    store.make_live(V1)
    assert not store.site_differs(V2)
    share_domain(store, V2, "location /store/ {}")
    assert store.site_differs(V2)


# --- the account ----------------------------------------------------------------------------------------------------


def accounts(monkeypatch: pytest.MonkeyPatch, users: dict[str, str], groups: list[str]) -> None:
    """Make the host have only these users, with their homes, and these groups."""

    def user(name: str) -> Any:
        return SimpleNamespace(pw_name=name, pw_dir=users[name])

    def group(name: str) -> Any:
        return SimpleNamespace(gr_name={known: known for known in groups}[name])

    monkeypatch.setattr(pwd, "getpwnam", user)
    monkeypatch.setattr(grp, "getgrnam", group)


def test_an_unused_name_is_accepted(store: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts(monkeypatch, {}, [])
    store.check_account()


def test_the_account_that_was_created_for_the_app_is_accepted(store: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts(monkeypatch, {"shop": f"{store.root}/data"}, ["shop"])
    store.check_account()


@pytest.mark.parametrize("home", ["/home/shop", "/", "/var/lib/shop"])
def test_an_account_with_another_home_is_refused(store: Releases, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    accounts(monkeypatch, {"shop": home}, ["shop"])
    with pytest.raises(AccountError, match=f"the user shop .* with the home {home},"):
        store.check_account()


def test_a_group_with_the_name_but_without_the_user_is_refused(
    store: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts(monkeypatch, {}, ["shop"])
    with pytest.raises(AccountError, match="the group shop"):
        store.check_account()
