"""The source of an app: packed and refused files, digests, archives."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.blueoctopus.site.plugins.action import release_source as packing

pytestmark = pytest.mark.usefixtures("isolated_git")


def names(source: Path) -> list[str]:
    return [str(path) for path in packing.list_files(source)]


def manifest(source: Path) -> str:
    return "".join(packing.describe(source, path) for path in packing.list_files(source))


def digest(source: Path, **settings: Any) -> str:
    return packing.digest_of(manifest(source), {"name": "shop"} | settings)


# --- files ----------------------------------------------------------------------------------------------------------


def test_caches_are_not_packed(source: Path) -> None:
    assert names(source) == ["main.py", "requirements.txt", "templates/index.html"]


@pytest.mark.parametrize("name", ["env", "octopusenv", "tools/env"])
def test_a_virtual_environment_of_any_name_is_not_packed(source: Path, name: str) -> None:
    before = names(source)
    (source / name / "bin").mkdir(parents=True)
    (source / name / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (source / name / "bin/python").symlink_to("/usr/bin/python3")
    (source / "pages").symlink_to(name)
    assert names(source) == before


def test_a_pyvenv_cfg_in_the_source_folder_itself_does_not_hide_the_source(source: Path) -> None:
    (source / "pyvenv.cfg").write_text("home = /usr/bin\n")
    assert "main.py" in names(source)


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "../source/main.py/../../outside"])
def test_a_link_to_a_target_outside_of_the_source_is_refused(source: Path, target: str) -> None:
    (source / "link").symlink_to(target)
    with pytest.raises(AnsibleActionFail, match="outside of the source"):
        packing.describe(source, Path("link"))


def test_special_files_are_refused(source: Path) -> None:
    os.mkfifo(source / "pipe")
    with pytest.raises(AnsibleActionFail, match="neither a file nor a link"):
        manifest(source)


@pytest.mark.parametrize("place", ["/srv/shop", "https://user:s3cret@example.org/shop.git"])
def test_a_source_without_requirements_is_refused(source: Path, place: str) -> None:
    (source / "requirements.txt").unlink()
    with pytest.raises(AnsibleActionFail, match=r"has no requirements\.txt") as caught:
        packing.ActionModule.package({"name": "shop", "source": place}, source)
    assert "s3cret" not in str(caught.value)


# --- digests --------------------------------------------------------------------------------------------------------


def test_the_same_content_has_the_same_digest(source: Path) -> None:
    before = digest(source, secrets={"KEY": "a"})
    os.utime(source / "main.py", (1, 1))
    assert digest(source, secrets={"KEY": "a"}) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda source: (source / "main.py").write_text("app = 1\n"),
        lambda source: (source / "main.py").chmod(0o755),
        lambda source: (source / "main.py").rename(source / "other.py"),
        lambda source: (source / "link").symlink_to("main.py"),
    ],
    ids=["content", "mode", "name", "link"],
)
def test_changed_files_change_the_digest(source: Path, change: Any) -> None:
    before = digest(source)
    change(source)
    assert digest(source) != before


@pytest.mark.parametrize(
    "settings",
    [
        {"environment": {"A": "b"}},
        {"secrets": {"A": "b"}},
        {"files": {"a": "b"}},
        {"requirements": "r.txt"},
        {"python": "/usr/bin/python3.13"},
        {"static": [{"url": "/s/", "path": "s"}]},
        {"basic_auth": {"staging": "$6$salt$hash"}},
        {"about": {"health_path": "/healthz"}},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_changed_settings_change_the_digest(source: Path, settings: dict[str, Any]) -> None:
    assert digest(source, **settings) != digest(source)


# --- archives -------------------------------------------------------------------------------------------------------


def test_owners_and_modes_of_the_control_node_are_not_packed(source: Path, tmp_path: Path) -> None:
    (source / "main.py").chmod(0o6700)
    packing.pack(source, packing.list_files(source), tmp_path / "a.tar.gz")
    listing = ["tar", "--list", "--verbose", "--file", str(tmp_path / "a.tar.gz")]
    shown = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["-rwxr-xr-x", "-rw-r--r--", "-rw-r--r--"]
    assert all(line.split()[1] == "root/root" for line in shown)


def test_unchanged_sources_are_packed_once(source: Path) -> None:
    args = {"name": "shop", "source": str(source)}
    first = packing.ActionModule.package(args, source)
    written = os.stat(first["archive"]).st_ino
    assert packing.ActionModule.package(args, source) == first
    assert os.stat(first["archive"]).st_ino == written
    (source / "main.py").write_text("app = 2\n")
    assert packing.ActionModule.package(args, source)["archive"] != first["archive"]


def test_old_archives_are_removed() -> None:
    old, new = packing.CACHE / "old.tar.gz", packing.CACHE / "new.tar.gz"
    for archive in (old, new):
        archive.touch()
    os.utime(old, (1, 1))
    packing.remove_old_archives()
    assert [archive.exists() for archive in (old, new)] == [False, True]


# --- static folders ---------------------------------------------------------------------------------------------------


def pack_with_static(source: Path, *paths: str) -> None:
    """Pack a source whose key `static` has some paths."""
    folders = [{"url": f"/{number}/", "path": path} for number, path in enumerate(paths)]
    packing.ActionModule.package({"name": "shop", "source": str(source), "static": folders}, source)


def test_a_static_folder_that_does_not_exist_is_an_error_that_names_the_key(source: Path) -> None:
    pack_with_static(source, "templates", "package:flask_admin/static")
    with pytest.raises(AnsibleActionFail, match="shop: static: the source has no folder dist "):
        pack_with_static(source, "templates", "dist")


def test_a_static_folder_that_git_ignores_is_an_error(source: Path) -> None:
    (source / "dist").mkdir()
    (source / "dist/app.js").touch()
    pack_with_static(source, "dist")
    (source / ".gitignore").write_text("dist/\n")
    subprocess.run(["git", "init", "--quiet", source], check=True)
    with pytest.raises(AnsibleActionFail, match="gitignore matches"):
        pack_with_static(source, "dist")


def test_the_default_static_folder_may_be_missing(source: Path) -> None:
    default = [{"url": "/static/", "path": "static"}]
    packing.ActionModule.package({"name": "shop", "source": str(source), "static": default}, source)


def test_a_static_folder_may_be_a_link_to_another_folder(source: Path) -> None:
    (source / "assets").symlink_to("templates")
    pack_with_static(source, "assets")
