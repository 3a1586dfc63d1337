"""The build of a release on a host: owners and modes, environment, dependencies."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import release_build as sandbox
from ansible_collections.blueoctopus.site.plugins.module_utils.release_build import (
    BuildError,
    environment_file,
    hand_to_root,
    shorten,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import venv_matches
from ansible_collections.blueoctopus.site.plugins.modules import release_build

NOBODY = 65534
IS_ROOT = os.geteuid() == 0


@pytest.fixture(autouse=True)
def owners(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore the owners of files when root does not run the tests."""
    if not IS_ROOT:
        for name in ("chown", "lchown"):
            monkeypatch.setattr(os, name, lambda *_: None)


def give_away(path: Path) -> None:
    if IS_ROOT:
        os.lchown(path, NOBODY, NOBODY)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# --- files from the sandbox -----------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree that another user has written, with everything in it that could be dangerous."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "file").write_text("secret")
    (outside / "file").chmod(0o600)
    root = tmp_path / "venv"
    for folder in (root, root / "bin", root / "lib"):
        folder.mkdir()
        folder.chmod(0o777)
    (root / "lib/sticky").mkdir()
    (root / "lib/sticky").chmod(0o3777)
    for name, mode in {"bin/run": 0o700, "bin/setuid": 0o6755, "lib/writable": 0o666, "lib/secret": 0o600}.items():
        (root / name).write_text("x")
        (root / name).chmod(mode)
    os.mkfifo(root / "lib/fifo")
    (root / "lib/file-link").symlink_to(outside / "file")
    (root / "lib/folder-link").symlink_to(outside)
    (root / "lib/dangling").symlink_to("nowhere")
    for path in (outside, outside / "file", root, *root.rglob("*")):
        give_away(path)
    for name, mode in {"bin/setuid": 0o6755, "lib/sticky": 0o3777}.items():  # a change of the owner removes these
        (root / name).chmod(mode)
    assert mode_of(root / "bin/setuid") & stat.S_ISUID
    return root


def test_files_get_plain_modes(tree: Path) -> None:
    hand_to_root(tree)
    modes = {str(path.relative_to(tree)): mode_of(path) for path in tree.rglob("*") if not path.is_symlink()}
    assert modes == {
        "bin": 0o755,
        "lib": 0o755,
        "lib/sticky": 0o755,
        "bin/run": 0o755,
        "bin/setuid": 0o755,
        "lib/writable": 0o644,
        "lib/secret": 0o644,
    }
    assert mode_of(tree) == 0o755


@pytest.mark.needs("root")  # only root can give files to another user
def test_all_files_belong_to_root(tree: Path) -> None:
    hand_to_root(tree)
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in (tree, *tree.rglob("*"))}
    assert owners == {(0, 0)}


def test_special_files_are_removed(tree: Path) -> None:
    hand_to_root(tree)
    assert not os.path.lexists(tree / "lib/fifo")
    assert os.path.lexists(tree / "lib/writable")


def test_a_link_is_not_followed(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    before = [(path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in (outside, outside / "file")]
    hand_to_root(tree)
    after = [(path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in (outside, outside / "file")]
    assert after == before
    assert all((tree / "lib" / name).is_symlink() for name in ("file-link", "folder-link", "dangling"))


# --- errors ---------------------------------------------------------------------------------------------------------


def test_a_long_error_keeps_its_first_and_last_lines() -> None:
    lines = shorten("\n".join(f"line {n}" for n in range(100))).splitlines()
    assert (lines[0], lines[-1]) == ("  line 0", "  line 99")
    assert len(lines) < 35
    assert any("70 more lines" in line for line in lines)


def test_a_short_error_is_shown_completely() -> None:
    assert shorten("one\ntwo\n\n") == "  one\n  two"


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["plain", "with space", 'a "quote"', "back\\slash", "$HOME `id`", "two\nlines", "é", ""]
)
def test_an_environment_value_is_unchanged(value: str) -> None:
    line = environment_file({"KEY": value})
    # systemd parses the file like a shell parses a double-quoted word.
    shell = subprocess.run(["sh", "-c", f'{line}printf %s. "$KEY"'], capture_output=True, text=True, check=True)
    assert shell.stdout == f"{value}."


# --- dependencies ---------------------------------------------------------------------------------------------------


def test_a_venv_matches_the_python_it_was_created_for(tmp_path: Path) -> None:
    (tmp_path / "venv/lib/python3.11").mkdir(parents=True)
    (tmp_path / "venv/bin").mkdir()
    (tmp_path / "venv/bin/python").symlink_to(tmp_path / "python3")
    for version in ("3.11", "3.13"):
        (tmp_path / f"python{version}").touch()
    (tmp_path / "python3").symlink_to("python3.11")
    assert venv_matches(tmp_path / "venv", str(tmp_path / "python3"))
    (tmp_path / "python3").unlink()
    (tmp_path / "python3").symlink_to("python3.13")
    assert not venv_matches(tmp_path / "venv", str(tmp_path / "python3"))


def test_a_venv_does_not_match_another_interpreter_of_the_same_version(tmp_path: Path) -> None:
    (tmp_path / "venv/lib/python3.12").mkdir(parents=True)
    (tmp_path / "venv/bin").mkdir()
    for folder in ("usr", "opt"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "python3.12").touch()
    (tmp_path / "venv/bin/python").symlink_to(tmp_path / "usr/python3.12")
    assert venv_matches(tmp_path / "venv", str(tmp_path / "usr/python3.12"))
    assert not venv_matches(tmp_path / "venv", str(tmp_path / "opt/python3.12"))


def test_a_venv_without_its_interpreter_does_not_match(tmp_path: Path) -> None:
    (tmp_path / "venv/lib/python3.12").mkdir(parents=True)
    (tmp_path / "venv/bin").mkdir()
    (tmp_path / "venv/bin/python").symlink_to(tmp_path / "python3.12")
    assert not venv_matches(tmp_path / "venv", str(tmp_path / "python3.12"))
    assert not venv_matches(tmp_path / "venv", "")


def test_a_venv_matches_an_interpreter_without_a_version_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "venv/lib/python3.12").mkdir(parents=True)
    (tmp_path / "venv/bin").mkdir()
    (tmp_path / "python").touch()
    (tmp_path / "venv/bin/python").symlink_to(tmp_path / "python")
    assert venv_matches(tmp_path / "venv", str(tmp_path / "python"))


def interpreter(folder: Path, name: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)
    return str(folder / name)


def test_an_interpreter_is_found_by_its_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "PATH", f"{tmp_path}/bin")
    monkeypatch.setattr(sandbox, "HIDDEN", ("/srv",))
    path = interpreter(tmp_path / "bin", "python3.12")
    assert sandbox.find_python("python3.12") == path
    assert sandbox.find_python(path) == path


@pytest.mark.parametrize("name", ["python3.14", "/opt/none/bin/python3"])
def test_a_missing_interpreter_is_named_with_those_that_exist(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "PATH", f"{tmp_path}/bin")
    interpreter(tmp_path / "bin", "python3.12")
    with pytest.raises(
        BuildError, match=rf"{name} does not exist on this host, which has python3\.12\. Set the key 'py"
    ):
        sandbox.find_python(name)


def test_an_interpreter_that_an_app_cannot_see_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "HIDDEN", (str(tmp_path / "home"),))
    path = interpreter(tmp_path / "home/pyenv", "python3.12")
    (tmp_path / "python3.12").symlink_to(path)
    with pytest.raises(BuildError, match="in a folder that apps can't access"):
        sandbox.find_python(str(tmp_path / "python3.12"))


@pytest.mark.parametrize(
    ("before", "after", "is_reused"),
    [
        ([], [], True),
        (["instance"], ["app.db"], True),
        (["venv/var/a"], ["instance", "venv/var/a"], True),
        ([], ["venv/var/a"], False),
        (["venv/var/a"], [], False),
    ],
)
def test_the_venv_of_the_live_release_is_reused_only_with_the_same_shared_paths_in_it(
    before: list[str], after: list[str], is_reused: bool
) -> None:
    about = {"dependencies": "digest", "shared_paths": before}
    assert release_build.are_same(about, "digest", after) == is_reused
    assert not release_build.are_same(about, "", after)
    assert not release_build.are_same({"dependencies": ""} | about, "other", after)


def test_a_tree_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/shadow").touch(mode=0o600)
    (tmp_path / "venv").symlink_to(tmp_path / "outside")
    with pytest.raises(BuildError, match="no longer a folder"):
        hand_to_root(tmp_path / "venv")
    assert (tmp_path / "outside/shadow").stat().st_mode & 0o777 == 0o600
