"""Paths of a release that lead to the data folder: what is created and copied there, and by whom."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.blueoctopus.site.plugins.action.release_source import check_shared_paths
from ansible_collections.blueoctopus.site.plugins.module_utils import shared_paths
from ansible_collections.blueoctopus.site.plugins.module_utils.release_build import BuildError
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases
from ansible_collections.blueoctopus.site.plugins.module_utils.shared_paths import set_aside, share
from ansible_collections.blueoctopus.site.plugins.modules import release_build

RELEASE = "20260101T000000Z-00000000aa"


@pytest.fixture(autouse=True)
def sandboxes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Run programs of the sandbox without one, with the folders that it would have; return the properties of each."""
    properties: list[dict[str, str]] = []

    def run(
        _app: str, argv: list[Any], binds: dict[Path, Path], own: dict[str, str], _settings: dict[str, str]
    ) -> tuple[int, str]:
        properties.append(own)
        words = [str(word) for word in argv]
        for outside, inside in binds.items():
            words = [word.replace(str(inside), str(outside)) if word.startswith("/") else word for word in words]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout

    monkeypatch.setattr(shared_paths, "run_in_sandbox", run)
    return properties


@pytest.fixture
def building(tmp_path: Path) -> Path:
    """The folder of an unfinished release, with its source and an empty venv."""
    folder = tmp_path / "shop/releases/.building"
    (folder / "source/instance").mkdir(parents=True)
    (folder / "source/main.py").write_text("app = None\n")
    (folder / "source/instance/config.py").write_text("A = 1\n")
    (folder / "source/app.db").write_text("tables")
    (folder / "venv").mkdir()
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data folder."""
    (tmp_path / "shop/data").mkdir(parents=True)
    return tmp_path / "shop/data"


def deploy(building: Path, data: Path, *paths: str) -> None:
    share(building, data.parent / "releases" / RELEASE, "shop", data, set_aside(building, list(paths)))


def target(path: Path) -> str:
    assert path.is_symlink()
    return os.readlink(path)


# --- links and content ----------------------------------------------------------------------------------------------


def test_a_shared_path_is_a_link_to_the_same_path_in_the_data_folder(building: Path, data: Path) -> None:
    deploy(building, data, "instance", "files/uploads/", "app.db")
    for path in ("instance", "files/uploads", "app.db"):
        assert target(building / "source" / path) == f"{data}/{path}"
    assert not (building / "shared").exists()


def test_content_of_the_source_is_copied_where_the_data_folder_has_nothing(building: Path, data: Path) -> None:
    deploy(building, data, "instance", "app.db")
    assert (data / "instance/config.py").read_text() == "A = 1\n"
    assert (data / "app.db").read_text() == "tables"
    assert sorted(path.name for path in data.iterdir()) == ["app.db", "instance"]


def test_existing_data_is_not_changed(building: Path, data: Path) -> None:
    (data / "instance").mkdir()
    (data / "instance/own.py").write_text("own")
    (data / "app.db").write_text("orders")
    deploy(building, data, "instance", "app.db")
    assert [path.name for path in (data / "instance").iterdir()] == ["own.py"]
    assert (data / "app.db").read_text() == "orders"


def test_an_empty_folder_gets_the_content_of_the_source(building: Path, data: Path) -> None:
    (data / "instance").mkdir()
    deploy(building, data, "instance")
    assert (data / "instance/config.py").exists()


@pytest.mark.parametrize(
    ("path", "is_folder"),
    [("uploads", True), ("a/b", True), ("files.d/", True), ("own.db", False), ("a/own.db", False)],
)
def test_a_path_without_content_is_a_folder_or_a_file_that_the_app_creates(
    building: Path, data: Path, path: str, is_folder: bool
) -> None:
    deploy(building, data, path)
    assert (data / path).is_dir() == is_folder
    link = building / "source" / path.rstrip("/")
    if not is_folder:
        assert not link.exists()
        link.write_text("new")
        assert (data / path).read_text() == "new"


def test_a_folder_of_the_source_with_a_suffix_is_a_folder(building: Path, data: Path) -> None:
    (building / "source/site.d").mkdir()
    deploy(building, data, "site.d")
    assert (data / "site.d").is_dir()


@pytest.mark.parametrize("name", ["shop-instance", "shop.web-instance"])
def test_the_instance_folder_of_an_installed_package_is_in_the_venv(building: Path, data: Path, name: str) -> None:
    deploy(building, data, f"venv/var/{name}")
    assert target(building / "venv/var" / name) == f"{data}/venv/var/{name}"
    assert (data / "venv/var" / name).is_dir()


@pytest.mark.parametrize(("path", "kind"), [("site.d", "folder"), ("database", "file")])
def test_without_content_existing_data_of_any_kind_is_accepted(
    building: Path, data: Path, path: str, kind: str
) -> None:
    (data / path).mkdir() if kind == "folder" else (data / path).write_text("orders")
    deploy(building, data, path)
    assert target(building / "source" / path) == f"{data}/{path}"
    assert (data / path).is_dir() == (kind == "folder")


def test_a_link_that_was_copied_with_the_venv_of_the_live_release_is_replaced(building: Path, data: Path) -> None:
    (building / "venv/var").mkdir()
    (building / "venv/var/shop-instance").symlink_to("/nowhere")
    deploy(building, data, "venv/var/shop-instance")
    assert target(building / "venv/var/shop-instance") == f"{data}/venv/var/shop-instance"


# --- safety ---------------------------------------------------------------------------------------------------------


def test_the_apps_user_writes_to_the_data_folder(building: Path, data: Path, sandboxes: list[dict[str, str]]) -> None:
    deploy(building, data, "instance")
    assert [(own["User"], own["Group"]) for own in sandboxes] == [("shop", "shop")]


def test_without_the_sandbox_nothing_is_written(building: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_paths, "run_in_sandbox", lambda *_: (0, ""))
    deploy(building, data, "instance", "app.db", "files/uploads")
    assert list(data.iterdir()) == []


@pytest.mark.parametrize("path", ["instance", "app.db"])
def test_a_link_in_the_data_folder_is_not_followed(building: Path, data: Path, tmp_path: Path, path: str) -> None:
    (tmp_path / "outside").mkdir()
    (data / path).symlink_to(tmp_path / "outside")
    deploy(building, data, path)
    assert list((tmp_path / "outside").iterdir()) == []
    assert target(data / path) == str(tmp_path / "outside")


@pytest.mark.parametrize(("path", "kind"), [("instance", "folder"), ("app.db", "file"), ("uploads/", "folder")])
def test_data_of_another_kind_is_an_error(building: Path, data: Path, path: str, kind: str) -> None:
    (data / path.rstrip("/")).write_text("") if kind == "folder" else (data / path).mkdir()
    with pytest.raises(BuildError, match=f"{path.rstrip('/')} exists already, but is not a {kind}"):
        deploy(building, data, path)


# --- the source, on the control node --------------------------------------------------------------------------------


def check(source: Path, *paths: str) -> None:
    files = [path.relative_to(source) for path in source.rglob("*") if path.is_symlink() or path.is_file()]
    check_shared_paths(source, files, list(paths))


def test_paths_that_can_be_shared_are_accepted(building: Path) -> None:
    (building / "source/instance/same.py").symlink_to("config.py")
    check(building / "source", "instance", "app.db", "uploads/", "venv/var/shop-instance")


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("main.py/instance", r"main\.py is a file or link"),
        ("link/uploads", "link is a file or link"),
        ("link", "is a link in the source"),
        ("app.db/", "is a file in the source"),
        ("outward", "link outward/config.py leads out of it"),
    ],
)
def test_a_path_that_cannot_be_shared_is_refused(building: Path, path: str, error: str) -> None:
    source = building / "source"
    (source / "link").symlink_to("instance")
    (source / "outward").mkdir()
    (source / "outward/config.py").symlink_to("../main.py")
    with pytest.raises(AnsibleActionFail, match=error):
        check(source, path)


def test_a_link_that_a_package_has_left_in_the_venv_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim/shop-instance"
    victim.mkdir(parents=True)
    (victim / "file").touch()
    unfinished = tmp_path / "unfinished"
    (unfinished / "venv").mkdir(parents=True)
    (unfinished / "venv/var").symlink_to(victim.parent)
    with pytest.raises(BuildError, match="is behind a link"):
        set_aside(unfinished, ["venv/var/shop-instance"])
    assert (victim / "file").exists()


# --- the whole build ------------------------------------------------------------------------------------------------


@pytest.fixture
def build(store: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, building: Path) -> Any:
    """Build a release of that source, without dependencies."""
    monkeypatch.setattr("pwd.getpwnam", lambda _name: SimpleNamespace(pw_gid=os.getgid()))
    monkeypatch.setattr("grp.getgrnam", lambda _name: SimpleNamespace(gr_gid=os.getgid()))
    monkeypatch.setattr(os, "chown", lambda *_: None)
    monkeypatch.setattr(release_build, "compile_source", lambda *_: None)
    monkeypatch.setattr(release_build, "find_python", lambda name: name)
    monkeypatch.setattr(release_build, "install", lambda run, *_: (run.building / "venv").mkdir() or "")
    archive = tmp_path / "source.tar.gz"
    subprocess.run(["tar", "-czf", archive, "-C", building / "source", "."], check=True)
    package = {"manifest": "", "commit": "", "version": "", "digest": "1"}
    usual = {"name": "shop", "release": RELEASE, "archive": archive, "source": package, "secrets": "", "files": {}}
    usual |= {
        "python": "",
        "uv": "",
        "build_secrets": "",
        "prefix": "",
        "basic_auth": "",
        "about": {},
        "static": [],
        "socket": "/run/%i.sock",
        "environment": {},
        "shared_paths": [],
    }

    def built(**params: Any) -> Path:
        (store.root / "data").mkdir(exist_ok=True)
        release_build.build(store, usual | params)
        return store.path(RELEASE)

    return built


def test_the_release_of_a_value_is_the_final_path_of_its_source(build: Any, store: Releases) -> None:
    values = {"SETTINGS": "{release}/settings.py", "BOTH": "{release}:{release}", "OTHER": "{releases} {} {{release}}"}
    release = build(environment=values | {"NUMBER": 7}, secrets='{"KEY": "{release}"}')
    source = f"{store.path(RELEASE)}/source"
    assert (release / "environment").read_text() == (
        f'BOTH="{source}:{source}"\nKEY="{{release}}"\nNUMBER="7"\n'
        f'OTHER="{{releases}} {{}} {{{source}}}"\nSETTINGS="{source}/settings.py"\n'
    )


def test_nginx_does_not_serve_the_initial_content_of_a_shared_path(build: Any, building: Path, tmp_path: Path) -> None:
    (building / "source/static/uploads").mkdir(parents=True)
    (building / "source/static/style.css").write_text("a")
    (building / "source/static/uploads/first.txt").write_text("a")
    subprocess.run(["tar", "-czf", tmp_path / "source.tar.gz", "-C", building / "source", "."], check=True)
    release = build(static=[{"url": "/static/", "path": "static"}], shared_paths=["static/uploads"])
    assert (release / "public/static/style.css").exists()
    assert not (release / "public/static/uploads").exists()
    assert (release / "source/static/uploads/first.txt").exists()


@pytest.mark.parametrize("path", ["instance", "venv/var/shop-instance"])
def test_a_built_release_contains_the_links(build: Any, store: Releases, path: str) -> None:
    release = build(shared_paths=[path])
    assert (
        target(release / path if path.startswith("venv") else release / "source" / path) == f"{store.root}/data/{path}"
    )
    assert sorted(p.name for p in release.iterdir()) == [
        "environment",
        "manifest",
        "public",
        "release.json",
        "socket",
        "source",
        "venv",
    ]
