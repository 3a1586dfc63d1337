"""The parts of the modules that need no machine."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import files, nginx
from ansible_collections.blueoctopus.site.plugins.modules import admin_account, config_files, nginx_config, ufw_policy

PROJECT = Path(__file__).resolve().parent.parent

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
    assert ufw_policy.ufw_rule(item(**keys)) == rule
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
        ufw_policy.ufw_rule(item(**keys))


@pytest.mark.parametrize(("port", "is_let_in"), [("22", True), ("20:30", True), ("23", False), ("30:40", False)])
def test_a_rule_lets_in_the_ports_it_names(port: str, is_let_in: bool) -> None:
    assert ufw_policy.allows_port(item(port=port), {22}) == is_let_in
    assert not ufw_policy.allows_port(item(port=port, proto="udp"), {22})


# --- config_files ---------------------------------------------------------------------------------------------------


def test_a_set_of_files_is_written_with_their_modes(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/settings.conf"
    assert config_files.current_state(path) == ("", -1)
    files.write(path, "one\n", 0o640)
    assert config_files.current_state(path) == ("one\n", 0o640)
    assert os.listdir(path.parent) == ["settings.conf"]


def test_a_file_whose_mode_is_wrong_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "settings.conf"
    files.write(path, "one\n", 0o666)
    command = ["ansible", "localhost", "--connection=local", "--module-name=blueoctopus.site.config_files", "--args"]
    arguments = json.dumps({"files": {str(path): "one\n"}, "mode": "0640"})
    settings = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_PYTHON_INTERPRETER": sys.executable}
    done = subprocess.run([*command, arguments], cwd=PROJECT, env=os.environ | settings, capture_output=True, text=True)
    assert "CHANGED" in done.stdout, done.stdout + done.stderr
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_line_replaces_the_last_of_its_kind_or_comes_to_the_end() -> None:
    text = "# DAYS, explained\n#DAYS 0\nDAYS 7\nlast"
    lines = {r"^#?DAYS\b": "DAYS 1", r"^NEW\b": "NEW 2"}
    changed = config_files.with_lines(text, lines)
    assert changed == "# DAYS, explained\n#DAYS 0\nDAYS 1\nlast\nNEW 2\n"
    assert config_files.with_lines(changed, lines) == changed


# --- nginx_config ---------------------------------------------------------------------------------------------------


def test_files_are_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    nginx.replace(tmp_path, {"sites/shop.conf": "old", "sites/blog.conf": "old"})
    nginx.replace(tmp_path, {"sites/shop.conf": "new"}, ["sites/blog.conf"])
    assert files.read(tmp_path / "sites/shop.conf") == "new"
    assert os.listdir(tmp_path / "sites") == ["shop.conf"]


def test_a_path_in_place_of_a_text_becomes_a_link_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    site = tmp_path / "live/site.conf"
    files.write(site, "server {}")
    for _ in range(2):
        nginx.replace(tmp_path, {"sites/shop.conf": site})
        assert os.readlink(tmp_path / "sites/shop.conf") == str(site)
    nginx.replace(tmp_path, {"sites/shop.conf": "a file of its own"})
    assert files.read(site) == "server {}"
    assert not (tmp_path / "sites/shop.conf").is_symlink()


def test_only_files_that_nobody_wants_are_surplus(tmp_path: Path) -> None:
    for name in ("sites/shop.conf", "sites/gone.conf", "sites/kept.conf", "sites/.shop.conf.new", "other/a.conf"):
        files.write(tmp_path / name, "")
    only = {"sites": ["kept.conf"], "none": []}
    assert nginx_config.surplus(tmp_path, only, {"sites/shop.conf": ""}) == ["sites/gone.conf"]


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
