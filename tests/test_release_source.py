"""The source of an app: packed and refused files, digests, archives."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
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
        {"extras": ["postgres"]},
        {"groups": ["prod"]},
        {"python": "/usr/bin/python3.13"},
        {"static": [{"url": "/s/", "path": "s"}]},
        {"basic_auth": {"staging": "$6$salt$hash"}},
        {"about": {"health_path": "/healthz"}},
        {"shared_paths": ["instance"]},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_changed_settings_change_the_digest(source: Path, settings: dict[str, Any]) -> None:
    assert digest(source, **settings) != digest(source)


def test_build_secrets_do_not_change_the_digest(source: Path) -> None:
    assert digest(source, build_secrets={"UV_INDEX_TOKEN": "a"}) == digest(source)


# --- dependencies -----------------------------------------------------------------------------------------------------


def package(source: Path, **args: Any) -> dict[str, Any]:
    return packing.ActionModule.package({"name": "shop", "source": str(source)} | args, source)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("-e .\n", "shop: requirements.txt, line 1: '-e .' is an editable install"),
        ("-r base.txt\n", "shop: requirements.txt, line 1: '-r base.txt' includes a file that is not in the source"),
    ],
)
def test_dependencies_that_a_release_cannot_have_are_refused(source: Path, text: str, error: str) -> None:
    (source / "requirements.txt").write_text(text)
    with pytest.raises(AnsibleActionFail) as caught:
        package(source)
    assert error in str(caught.value)


def test_an_included_file_that_git_ignores_is_refused(source: Path) -> None:
    subprocess.run(["git", "init", "--quiet", source], check=True)
    (source / ".gitignore").write_text("base.txt\n")
    (source / "base.txt").write_text("flask\n")
    (source / "requirements.txt").write_text("-r base.txt\n")
    with pytest.raises(AnsibleActionFail, match=r"base\.txt is not part of the release, as \.gitignore excludes it"):
        package(source)


def test_a_lock_needs_its_project(source: Path) -> None:
    (source / "uv.lock").write_text("version = 1\n")
    with pytest.raises(AnsibleActionFail, match=r"There is no pyproject\.toml beside uv\.lock"):
        package(source, requirements="uv.lock")


# --- subfolders -------------------------------------------------------------------------------------------------------


def pack_source(**args: Any) -> dict[str, Any]:
    """The result of the whole action."""
    task = SimpleNamespace(args={"app": {"name": "shop"} | args}, async_val=0, environment=None)
    action = packing.ActionModule.__new__(packing.ActionModule)
    action._task = task
    return dict(action.run(None, None)["package"])


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Git repository with an app in a subfolder."""
    monkeypatch.setattr(ActionBase, "run", lambda *_: {})
    folder = tmp_path / "repository"
    (folder / "backend/shop").mkdir(parents=True)
    (folder / "backend/shop/web.py").write_text("app = None\n")
    (folder / "backend/requirements.txt").write_text("flask\n")
    (folder / "frontend.js").write_text("")
    (folder / "outside").symlink_to("..")
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "first"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_only_the_subfolder_is_the_app(repository: Path, scheme: str) -> None:
    packed = pack_source(source=f"{scheme}{repository}", subfolder="backend")
    assert [line.split()[-1] for line in packed["manifest"].splitlines()] == ["requirements.txt", "shop/web.py"]
    assert len(packed["commit"]) == 40


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_missing_subfolder_is_named(repository: Path, scheme: str) -> None:
    with pytest.raises(
        AnsibleActionFail, match=r"shop: \S+/repository has no folder back\. Correct the key 'subfolder'"
    ):
        pack_source(source=f"{scheme}{repository}", subfolder="back")


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_subfolder_that_links_out_of_the_source_is_refused(repository: Path, scheme: str) -> None:
    with pytest.raises(AnsibleActionFail, match="the subfolder outside is outside of"):
        pack_source(source=f"{scheme}{repository}", subfolder="outside")


def test_a_change_beside_the_subfolder_changes_no_release(repository: Path) -> None:
    before = pack_source(source=str(repository), subfolder="backend")
    (repository / "frontend.js").write_text("changed")
    after = pack_source(source=str(repository), subfolder="backend")
    assert (after["digest"], after["commit"]) == (before["digest"], before["commit"])


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
