"""The parts of the modules that need no machine."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
from typing import Any

import pytest
from action import release_build as packing
from ansible.errors import AnsibleActionFail
from module_utils import files
from modules import admin_account, config_files, nginx_config, release_build, release_switch, ufw_policy

# --- release_build, on the control node -----------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small app in a folder of its own."""
    folder = tmp_path / "source"
    (folder / "templates").mkdir(parents=True)
    (folder / "main.py").write_text("app = None\n")
    (folder / "requirements.txt").write_text("flask\n")
    (folder / "templates/index.html").write_text("<p>\n")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/main.pyc").write_text("")
    return folder


def names(source: Path) -> list[str]:
    return [str(path) for path in packing.list_files(source)]


def digest(source: Path, **settings: Any) -> str:
    manifest = "".join(packing.describe(source, path) for path in packing.list_files(source))
    return packing.digest_of(manifest, {"name": "shop"} | settings)


def test_caches_stay_out_of_a_release(source: Path) -> None:
    assert names(source) == ["main.py", "requirements.txt", "templates/index.html"]


def test_a_long_error_keeps_its_first_and_its_last_lines() -> None:
    with pytest.raises(release_build.BuildError) as caught:
        release_build.run("sh", "-c", "seq -f 'line %g' 0 99; exit 1")
    told = str(caught.value).splitlines()
    assert (told[1], told[-1]) == ("  line 0", "  line 99")
    assert len(told) < 35


def test_what_git_ignores_stays_out_of_a_release(source: Path) -> None:
    (source / ".gitignore").write_text("*.log\n.env\n")
    for name in ("debug.log", ".env", "new.py"):
        (source / name).write_text("x")
    subprocess.run(["git", "init", "--quiet", source], check=True)
    assert names(source) == [".gitignore", "main.py", "new.py", "requirements.txt", "templates/index.html"]


def test_a_file_that_was_deleted_but_not_committed_is_no_file(source: Path) -> None:
    subprocess.run(["git", "init", "--quiet", source], check=True)
    subprocess.run(["git", "-C", source, "add", "."], check=True)
    (source / "main.py").unlink()
    assert "main.py" not in names(source)


def test_the_same_content_has_the_same_digest(source: Path) -> None:
    before = digest(source, secrets={"KEY": "a"})
    os.utime(source / "main.py", (1, 1))
    assert digest(source, secrets={"KEY": "a"}) == before
    assert len(before) == 10


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
def test_other_files_have_another_digest(source: Path, change: Any) -> None:
    before = digest(source)
    change(source)
    assert digest(source) != before


@pytest.mark.parametrize(
    "settings", [{"environment": {"A": "b"}}, {"secrets": {"A": "b"}}, {"files": {"a": "b"}}, {"requirements": "r.txt"}]
)
def test_other_settings_have_another_digest(source: Path, settings: dict[str, Any]) -> None:
    assert digest(source, **settings) != digest(source)


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "../source/main.py/../../outside"])
def test_a_link_that_leads_out_is_refused(source: Path, target: str) -> None:
    (source / "link").symlink_to(target)
    with pytest.raises(AnsibleActionFail, match="outside of the source"):
        packing.describe(source, Path("link"))


def test_nothing_of_this_computer_is_packed(source: Path, tmp_path: Path) -> None:
    packing.pack(source, packing.list_files(source), tmp_path / "a.tar.gz")
    listing = ["tar", "--list", "--verbose", "--file", str(tmp_path / "a.tar.gz")]
    shown = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    assert all(line.startswith("-rw-r--r-- root/root ") for line in shown.splitlines())
    assert len(shown.splitlines()) == 3


# --- release_build, on the host -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["plain", "with space", 'a "quote"', "back\\slash", "$HOME `id`", "two\nlines", "é", ""]
)
def test_an_environment_value_arrives_as_it_is(value: str) -> None:
    line = release_build.environment_file({"KEY": value})
    # systemd reads such a file the way a shell reads a double-quoted word
    shell = subprocess.run(["sh", "-c", f'{line}printf %s. "$KEY"'], capture_output=True, text=True, check=True)
    assert shell.stdout == f"{value}."


HASHED = "flask==3.1.3 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n    # via -r requirements.in\n"


@pytest.mark.parametrize(
    ("requirements", "locked"),
    [
        (HASHED, True),
        ("# made by uv\n\n" + HASHED + HASHED.replace("flask", "gunicorn[setproctitle]"), True),
        (HASHED.replace("==3.1.3", '==3.1.3 ; python_version >= "3.11"'), True),
        ("flask==3.1.3\n", False),
        (HASHED + "-r other.txt\n", False),
        (HASHED + "./wheels/own.whl \\\n    --hash=sha256:00\n", False),
    ],
)
def test_only_what_can_not_change_is_locked(requirements: str, locked: bool) -> None:
    assert release_build.is_locked(requirements) is locked


def test_a_venv_suits_the_python_it_was_made_for(tmp_path: Path) -> None:
    (tmp_path / "venv/lib/python3.11").mkdir(parents=True)
    for version in ("3.11", "3.13"):
        (tmp_path / f"python{version}").touch()
    (tmp_path / "python3").symlink_to("python3.11")
    assert release_build.suits(tmp_path / "venv", str(tmp_path / "python3"))
    (tmp_path / "python3").unlink()
    (tmp_path / "python3").symlink_to("python3.13")
    assert not release_build.suits(tmp_path / "venv", str(tmp_path / "python3"))


# --- release_switch -------------------------------------------------------------------------------------------------


class Sick(BaseHTTPRequestHandler):
    """Answers /healthz well and everything else with 500."""

    def address_string(self) -> str:
        return "unix"

    def do_GET(self) -> None:
        self.send_response(204 if self.path == "/healthz" else 500)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[str]:
    """A Unix socket that a server of this test answers."""
    path = str(tmp_path / "socket")
    server = UnixStreamServer(path, Sick)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield path
    server.shutdown()
    thread.join()
    server.server_close()


def ask(socket_path: str, path: str, patience: float = 5) -> tuple[int, str]:
    return release_switch.ask(release_switch.UnixConnection(socket_path, patience), path, "shop.example")


@pytest.mark.parametrize(("path", "status"), [("/healthz", 204), ("/", 500)])
def test_an_instance_is_asked_on_its_own_socket(answering: str, path: str, status: int) -> None:
    assert ask(answering, path)[0] == status


def test_an_instance_that_does_not_answer_says_why(tmp_path: Path) -> None:
    status, words = ask(str(tmp_path / "none"), "/")
    assert status == 0
    assert "No such file" in words


def test_an_instance_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "socket"))
        mute.listen()
        assert ask(str(tmp_path / "socket"), "/", 0.2)[0] == 0


def test_the_log_is_told_in_the_apps_own_words() -> None:
    log = """[7] [ERROR] Exception in worker process
Traceback (most recent call last):
  File "main.py", line 1, in <module>
    import wonders
ModuleNotFoundError: No module named 'wonders'
[7] [INFO] Worker exiting
Traceback (most recent call last):
  File "arbiter.py", line 1, in run
    self.halt()
gunicorn.errors.HaltServer: <HaltServer 'Worker failed to boot.' 3>

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "gunicorn", line 1, in <module>
gunicorn.errors.HaltServer: <HaltServer 'Worker failed to boot.' 3>
"""
    assert release_switch.own_words(log) == log.splitlines()[:6]


# --- ufw_policy -----------------------------------------------------------------------------------------------------


def item(**keys: Any) -> dict[str, Any]:
    return {"port": "80", "proto": "tcp", "from": None, "limit": False, "comment": ""} | keys


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        ({}, "allow 80/tcp"),
        ({"comment": "web"}, "allow 80/tcp comment 'web'"),
        ({"port": "8000:8100", "proto": "udp"}, "allow 8000:8100/udp"),
        ({"limit": True, "comment": "SSH"}, "limit 80/tcp comment 'SSH'"),
        ({"from": "192.0.2.7"}, "allow from 192.0.2.7 to any port 80 proto tcp"),
        ({"from": "192.0.2.7/32"}, "allow from 192.0.2.7 to any port 80 proto tcp"),
        ({"from": "192.0.2.7/24"}, "allow from 192.0.2.0/24 to any port 80 proto tcp"),
        ({"from": "2001:DB8::/32"}, "allow from 2001:db8::/32 to any port 80 proto tcp"),
    ],
)
def test_a_rule_is_written_as_ufw_writes_it(keys: dict[str, str], rule: str) -> None:
    assert ufw_policy.as_rule(item(**keys)) == rule
    assert shlex.split(rule)


@pytest.mark.parametrize(
    "keys",
    [
        {"port": "0"},
        {"port": "65536"},
        {"port": "ssh"},
        {"port": "90:80"},
        {"port": "80; reboot"},
        {"from": "everybody"},
        {"from": "192.0.2.0/33"},
        {"from": "0.0.0.0/0"},
        {"comment": "it's"},
        {"comment": "two\nlines"},
    ],
)
def test_a_bad_rule_is_refused(keys: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        ufw_policy.as_rule(item(**keys))


@pytest.mark.parametrize(("port", "is_let_in"), [("22", True), ("20:30", True), ("23", False), ("30:40", False)])
def test_a_rule_lets_in_the_ports_it_names(port: str, is_let_in: bool) -> None:
    assert ufw_policy.lets_in(item(port=port), {22}) == is_let_in
    assert not ufw_policy.lets_in(item(port=port, proto="udp"), {22})


# --- nginx_config ---------------------------------------------------------------------------------------------------


def test_a_set_of_files_is_written_with_their_modes(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/settings.conf"
    assert config_files.as_it_is(path) == ("", -1)
    files.write(path, "one\n", 0o640)
    assert config_files.as_it_is(path) == ("one\n", 0o640)
    assert os.listdir(path.parent) == ["settings.conf"]


def test_a_line_replaces_the_last_of_its_kind_or_comes_to_the_end() -> None:
    text = "# DAYS, explained\n#DAYS 0\nDAYS 7\nlast"
    lines = {r"^#?DAYS\b": "DAYS 1", r"^NEW\b": "NEW 2"}
    changed = config_files.with_lines(text, lines)
    assert changed == "# DAYS, explained\n#DAYS 0\nDAYS 1\nlast\nNEW 2\n"
    assert config_files.with_lines(changed, lines) == changed


def test_files_are_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    nginx_config.apply(tmp_path, {"sites/shop.conf": "old"}, [])
    nginx_config.apply(tmp_path, {"sites/shop.conf": "new"}, [])
    assert files.read(tmp_path / "sites/shop.conf") == "new"
    assert os.listdir(tmp_path / "sites") == ["shop.conf"]


# --- admin_account --------------------------------------------------------------------------------------------------

KEYS = """# of root
ssh-ed25519 AAAAone somebody@laptop
restrict,command="rrsync /srv" ssh-ed25519 AAAAtwo backup
  ecdsa-sha2-nistp256 AAAAthree
"""


def test_all_keys_of_a_file_are_seen() -> None:
    found = {"ssh-ed25519 AAAAone": "somebody@laptop", "ssh-ed25519 AAAAtwo": "backup"}
    assert admin_account.keys_in(KEYS) == found | {"ecdsa-sha2-nistp256 AAAAthree": ""}


def test_a_key_with_restrictions_makes_no_administrator() -> None:
    taken = admin_account.keys_in(KEYS, unrestricted=True)
    assert list(taken) == ["ssh-ed25519 AAAAone", "ecdsa-sha2-nistp256 AAAAthree"]
