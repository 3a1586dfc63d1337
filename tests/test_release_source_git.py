"""Sources in Git: work trees, submodules, Git LFS, repositories at a URL, commits."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.blueoctopus.site.plugins.action import release_source as packing

pytestmark = pytest.mark.usefixtures("isolated_git")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"


def git(folder: Path, *argv: str | Path) -> str:
    """Run git and return its output."""
    command = ["git", "-C", folder, "-c", "protocol.file.allow=always", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def commit(folder: Path) -> str:
    """Commit all files of a folder; return the commit."""
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=Change")
    return git(folder, "rev-parse", "HEAD")


def with_submodule(source: Path, tmp_path: Path) -> None:
    """Commit the source with a submodule `vendored/lib`, checked out."""
    library = tmp_path / "library"
    (library / "inner").mkdir(parents=True)
    (library / "inner/code.py").write_text("x = 1\n")
    (library / ".gitignore").write_text("*.log\n")
    commit(library)
    commit(source)
    git(source, "submodule", "--quiet", "add", str(library), "vendored/lib")
    commit(source)


def names(source: Path) -> list[str]:
    return [str(path) for path in packing.list_files(source)]


def manifest(source: Path) -> str:
    return "".join(packing.describe(source, path) for path in packing.list_files(source))


# --- work trees -----------------------------------------------------------------------------------------------------


def test_ignored_files_are_not_packed(source: Path) -> None:
    (source / ".gitignore").write_text("*.log\n.env\n")
    for name in ("debug.log", ".env", "new.py"):
        (source / name).write_text("x")
    git(source, "init", "--quiet")
    assert names(source) == [".gitignore", "main.py", "new.py", "requirements.txt", "templates/index.html"]


def test_a_virtual_environment_that_git_does_not_ignore_is_not_packed(source: Path) -> None:
    commit(source)
    before = names(source)
    (source / "octopusenv/bin").mkdir(parents=True)
    (source / "octopusenv/pyvenv.cfg").write_text("home = /usr/bin\n")
    (source / "octopusenv/bin/python").symlink_to("/usr/bin/python3")
    assert names(source) == before


def test_a_subfolder_of_a_checkout_has_the_same_ignore_rules(source: Path) -> None:
    (source / ".gitignore").write_text("*.log\n")
    (source / "templates/debug.log").write_text("x")
    commit(source)
    assert names(source / "templates") == ["index.html"]


def test_an_ignored_folder_has_no_files(source: Path) -> None:
    (source / ".gitignore").write_text("build/\n")
    commit(source)
    (source / "build/app").mkdir(parents=True)
    (source / "build/app/secret.py").write_text("x")
    assert names(source / "build/app") == []
    assert names(source / "build") == []


def test_a_deleted_file_is_not_listed_before_the_commit(source: Path) -> None:
    git(source, "init", "--quiet")
    git(source, "add", ".")
    (source / "main.py").unlink()
    assert "main.py" not in names(source)


@pytest.mark.parametrize("name", ["with space.txt", "é.txt", 'a"b.txt', "two\nlines.txt"])
@pytest.mark.parametrize("is_checkout", [True, False])
def test_a_file_with_any_name_is_listed(source: Path, name: str, is_checkout: bool) -> None:
    (source / name).write_text("x")
    if is_checkout:
        commit(source)
    assert name in names(source)


def test_a_link_to_a_folder_is_one_entry(source: Path) -> None:
    (source / "pages").symlink_to("templates")
    assert "pages" in names(source)
    assert not any(name.startswith("pages/") for name in names(source))
    before = names(source)
    commit(source)
    assert names(source) == before


def test_a_checkout_that_git_refuses_to_read_is_not_walked(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / ".gitignore").write_text(".env\n")
    (source / ".env").write_text("PASSWORD=squid\n")
    commit(source)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    for folder in (source, source / "templates"):
        with pytest.raises(AnsibleActionFail, match="dubious ownership"):
            packing.list_files(folder)


def test_a_checkout_without_git_on_the_control_node_is_not_walked(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(source)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AnsibleActionFail, match="git is not installed"):
        packing.list_files(source)


# --- submodules and Git LFS -----------------------------------------------------------------------------------------


def test_the_files_of_a_submodule_are_packed(source: Path, tmp_path: Path) -> None:
    with_submodule(source, tmp_path)
    (source / "vendored/lib/debug.log").write_text("x")  # ignored there
    found = names(source)
    assert {"main.py", "vendored/lib/inner/code.py", "vendored/lib/.gitignore"} < set(found)
    assert "vendored/lib" not in found
    assert "vendored/lib/debug.log" not in found
    assert "vendored/lib/.git" not in found
    assert "vendored/lib/inner/code.py" in manifest(source)


def test_a_submodule_that_is_not_checked_out_is_refused(source: Path, tmp_path: Path) -> None:
    with_submodule(source, tmp_path)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", source, clone)
    with pytest.raises(AnsibleActionFail, match=r"submodule vendored/lib of .* is not checked out"):
        packing.list_files(clone)


def test_a_repository_at_a_url_with_a_submodule_is_refused(source: Path, tmp_path: Path) -> None:
    with_submodule(source, tmp_path)
    (tmp_path / "target").mkdir()
    with pytest.raises(AnsibleActionFail, match=r"submodule vendored/lib\."):
        packing.check_out(f"file://{source}", None, tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []


def test_a_pointer_of_git_lfs_is_refused(source: Path) -> None:
    (source / "templates/film.mp4").write_text(POINTER)
    with pytest.raises(AnsibleActionFail, match=r"templates/film\.mp4 is a pointer of Git LFS"):
        manifest(source)


# --- repositories at a URL ------------------------------------------------------------------------------------------


def check_out(url: str, version: str | None, target: Path) -> str:
    target.mkdir()
    return packing.check_out(url, version, target)


def test_branches_tags_commits_and_new_commits_are_found(source: Path, tmp_path: Path) -> None:
    url, first = f"file://{source}", commit(source)
    git(source, "tag", "v1")
    assert check_out(url, None, tmp_path / "a") == first
    (source / "main.py").write_text("app = 2\n")
    second = commit(source)
    assert check_out(url, "main", tmp_path / "b") == second
    assert (tmp_path / "b/main.py").read_text() == "app = 2\n"
    assert check_out(url, "v1", tmp_path / "c") == first
    assert check_out(url, first, tmp_path / "d") == first
    assert (tmp_path / "d/main.py").read_text() == "app = None\n"
    assert not (tmp_path / "d/.git").exists()


def test_an_unknown_version_is_reported(source: Path, tmp_path: Path) -> None:
    commit(source)
    with pytest.raises(AnsibleActionFail, match="'v9' is not a branch, tag or commit"):
        check_out(f"file://{source}", "v9", tmp_path / "a")


SECRET = "https://user:s3cret@127.0.0.1:1/x.git"


def test_a_token_in_a_url_is_not_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(AnsibleActionFail) as caught:
        check_out(SECRET, None, tmp_path / "a")
    assert "127.0.0.1" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "user" not in str(caught.value)


def test_a_token_in_gits_output_is_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin/git"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\ncase "$*" in *fetch*) echo "refused $RELEASE_GIT_PASSWORD, sorry" >&2; exit 1;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with pytest.raises(AnsibleActionFail) as caught:
        check_out(SECRET, None, tmp_path / "a")
    assert "refused …, sorry" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_token_in_a_url_is_not_in_gits_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, log = tmp_path / "bin/git", tmp_path / "arguments"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {which("git")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with pytest.raises(AnsibleActionFail):
        check_out(SECRET, None, tmp_path / "a")
    arguments = log.read_text()
    assert "fetch" in arguments
    assert "https://127.0.0.1:1/x.git" in arguments
    assert "s3cret" not in arguments
    kept = "".join(path.read_text(errors="replace") for path in packing.CACHE.rglob("*") if path.is_file())
    assert "s3cret" not in kept


class Guarded(BaseHTTPRequestHandler):
    """Requires a user name and a password, stores the given ones, and has no repository."""

    given: list[str]

    def do_GET(self) -> None:
        authorization = self.headers.get("Authorization", "")
        if authorization:
            self.given.append(base64.b64decode(authorization.removeprefix("Basic ")).decode())
        self.send_response(404 if authorization else 401)
        self.send_header("WWW-Authenticate", 'Basic realm="test"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def guarded() -> Iterator[tuple[int, list[str]]]:
    """The port of a server, and the user names and passwords that it has received."""
    given: list[str] = []
    server = HTTPServer(("127.0.0.1", 0), type("Noting", (Guarded,), {"given": given}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port, given
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_token_in_a_url_is_sent_to_the_server(tmp_path: Path, guarded: tuple[int, list[str]]) -> None:
    port, given = guarded
    with pytest.raises(AnsibleActionFail, match="not found"):
        check_out(f"http://user:s3cret@127.0.0.1:{port}/x.git", None, tmp_path / "a")
    assert given[0] == "user:s3cret"


# --- commits --------------------------------------------------------------------------------------------------------


def test_folders_without_git_or_without_a_commit_have_no_commit(source: Path) -> None:
    assert packing.commit_of(source) == ""
    git(source, "init", "--quiet")
    assert packing.commit_of(source) == ""


def test_a_commit_is_marked_when_there_are_changes(source: Path) -> None:
    made = commit(source)
    assert packing.commit_of(source) == made
    (source / "new.py").write_text("x")
    assert packing.commit_of(source) == f"{made}+changes"
    assert packing.commit_of(source / "templates") == made  # this folder has no changes
