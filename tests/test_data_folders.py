"""Folders of an app's data that nginx may read: access control lists, and links that the app may have put there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.data_folders import FolderError, let_read

pytestmark = pytest.mark.needs("root")  # only root can give files to other users
APP, NGINX, STRANGER = 61001, 61002, 61003


@pytest.fixture
def data() -> Iterator[Path]:
    """The data of an app, in folders that every user can enter."""
    top = Path(tempfile.mkdtemp(dir="/tmp"))
    top.chmod(0o755)
    folder = top / "data"
    folder.mkdir()
    folder.chmod(0o750)
    os.chown(folder, APP, APP)
    yield folder
    shutil.rmtree(top)


def run_as(user: int, code: str, *arguments: object) -> str:
    """Run Python code as a user with umask 027; the arguments are in `a`. Return its output, or the error."""
    setup = f"""
import os, pathlib, sys  # first: the user may not be able to read Python's own files
os.setgroups([]); os.setgid({user}); os.setuid({user}); os.umask(0o027)
a = sys.argv[1:]
"""
    command = [sys.executable, "-I", "-c", f"{setup}\n{code}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def reads(user: int, path: Path) -> bool:
    return run_as(user, "print(open(a[0]).read(), end='')", path) == "content"


def write(path: Path) -> None:
    """Write a file, and the folders above it, as the app."""
    code = (
        "import pathlib; p = pathlib.Path(a[0]); p.parent.mkdir(parents=True, exist_ok=True); p.write_text('content')"
    )
    assert run_as(APP, code, path) == ""


def let(data: Path, path: str) -> None:
    let_read(data, path, (APP, APP), NGINX)


@pytest.mark.parametrize("path", ["media", "files/public/media"])
def test_nginx_can_read_what_the_app_creates_in_the_folder(data: Path, path: str) -> None:
    let(data, path)
    for file in (data / path / "a.jpg", data / path / "2026/11/b.jpg"):
        write(file)
        assert reads(NGINX, file)
        assert not reads(STRANGER, file)
    assert run_as(NGINX, "open(a[0], 'w')", data / path / "a.jpg").startswith("PermissionError")
    assert run_as(NGINX, "open(a[0], 'w')", data / path / "new.jpg").startswith("PermissionError")


def test_nginx_can_read_what_the_folder_contained_before(data: Path) -> None:
    write(data / "media/2025/old.jpg")
    assert not reads(NGINX, data / "media/2025/old.jpg")
    let(data, "media")
    assert reads(NGINX, data / "media/2025/old.jpg")
    write(data / "media/2025/new.jpg")
    assert reads(NGINX, data / "media/2025/new.jpg")


def test_nginx_can_read_nothing_else(data: Path) -> None:
    write(data / "files/secret.txt")
    write(data / "shop.db")
    let(data, "files/media")
    for file in ("files/secret.txt", "shop.db"):
        assert not reads(NGINX, data / file)
    assert run_as(NGINX, "print(os.listdir(a[0]))", data).startswith("PermissionError")
    assert (data.stat().st_mode & 0o777, data.stat().st_uid, data.stat().st_gid) == (0o750, APP, APP)


def test_the_folder_belongs_to_the_app_and_a_second_call_changes_nothing(data: Path) -> None:
    let(data, "media")
    before = (data / "media").stat()
    assert (before.st_mode & 0o7777, before.st_uid, before.st_gid) == (0o750, APP, APP)
    let(data, "media")
    assert (data / "media").stat().st_ctime_ns == before.st_ctime_ns


@pytest.mark.parametrize("link", ["media", "files"])
def test_a_link_of_the_app_is_not_followed(data: Path, link: str) -> None:
    outside = data.parent / "outside"
    outside.mkdir(mode=0o700)
    (data / link).symlink_to(outside)
    with pytest.raises(FolderError, match=f"{data / link} is a link, or not a folder"):
        let(data, "media" if link == "media" else "files/media")
    assert os.listxattr(outside) == []
    assert os.listdir(outside) == []


def test_links_and_foreign_files_in_the_folder_are_not_changed(data: Path) -> None:
    outside = data.parent / "outside"
    outside.mkdir(mode=0o700)
    for path in (outside / "key", data / "foreign"):
        path.write_text("content")
        path.chmod(0o600)
    write(data / "media/a.jpg")
    (data / "foreign").rename(data / "media/foreign")
    (data / "media/key").symlink_to(outside / "key")
    (data / "media/folder").symlink_to(outside)
    for name in ("shop.db", "blog.db"):
        write(data / name)
    (data / "media/shop.db").symlink_to(data / "shop.db")
    os.link(data / "blog.db", data / "media/blog.db")
    let(data, "media")
    assert reads(NGINX, data / "media/a.jpg")
    for path in (outside, outside / "key", data / "media/foreign", data / "shop.db", data / "blog.db"):
        assert os.listxattr(path) == [], path
