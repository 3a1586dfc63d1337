"""Invalid values in the inventory: one clear error from the playbook, before any host is changed."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from app_entries import GOOD

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).resolve().parent.parent


Play = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Run a playbook, by default site.yml, with an inventory of unreachable hosts."""
    return functools.partial(run_playbook, tmp_path)


def run_playbook(
    folder: Path,
    hosts: dict[str, Any],
    *options: str,
    ansible: str = "ansible-playbook",
    playbook: str = "site",
    inventory: str = "",
) -> subprocess.CompletedProcess[str]:
    unreachable = {"ansible_host": "127.0.0.1", "ansible_port": 9}
    hosts_file = folder / "hosts.yml"
    webservers = {host: unreachable | variables for host, variables in hosts.items()}
    hosts_file.write_text(yaml.safe_dump({"webservers": {"hosts": webservers}}))
    program = Path(sys.executable).parent / ansible
    environment = os.environ | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(
        [str(program), str(PROJECT / f"playbooks/{playbook}.yml"), "-i", inventory or str(hosts_file), *options],
        cwd=PROJECT,
        env=environment | {"LC_ALL": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# --- invalid values -------------------------------------------------------------------------------------------------

# An invalid setting of a host, and what is reported as found.
SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"nginx_http_port": "eighty"}, "'eighty'"),
    ({"admin_keys": "ssh-ed25519 AAAA"}, "'ssh-ed25519 AAAA'"),
    ({"admin_keys": []}, "an empty list: nobody could log in"),
    ({"admin_addresses": "10.0.0.1"}, "'10.0.0.1'"),
    ({"admin_addresses": ["10.0.0.300"]}, "['10.0.0.300']"),
    ({"firewall_allow": [{"port": 9100, "from": "monitor"}]}, "[{'from': 'monitor', 'port': 9100}]"),
    ({"ssh_port": 70000}, "70000"),
    ({"nginx_https_port": 0}, "0"),
    ({"nginx_client_max_body_size": "1m; autoindex on"}, "'1m; autoindex on'"),
    ({"admin_user": "Ad min"}, "'Ad min'"),
    ({"hardening_unused_modules": ["a /bin/sh"]}, "['a /bin/sh']"),
]
# Keys of an app of which one is invalid, the name of that key, and what is reported as found.
KEYS: list[tuple[dict[str, Any], str, str]] = [
    ({"subfolder": "backend"}, "subfolder", "'backend'"),
    ({"subfolder": "../app"}, "subfolder", "'../app'"),
    ({"extras": ["postgres"]}, "extras", "['postgres'], with requirements: requirements.txt"),
    ({"groups": ["prod"]}, "groups", "['prod'], with requirements: requirements.txt"),
    ({"groups": ["--help"], "requirements": "uv.lock"}, "groups", "['--help']"),
    ({"python": "python2"}, "python", "'python2'"),
    ({"python": "bin/python3"}, "python", "'bin/python3'"),
    ({"packages": ["libpq5=1.0"]}, "packages", "['libpq5=1.0']"),
    ({"environment": {"PATH": "/opt/tool/bin"}}, "environment", "{'PATH': '/opt/tool/bin'}"),
    ({"build_packages": ["-o APT::x=y"]}, "build_packages", "['-o APT::x=y']"),
    ({"build_secrets": {"A B": "s3cret"}}, "build_secrets", "(not shown: it may contain secrets)"),
    ({"wsgi": "main:create_app();import os"}, "wsgi", "'main:create_app();import os'"),
]
# Every host has its own invalid values, so that one run shows all errors.
HOSTS: dict[str, dict[str, Any]] = {
    **{f"setting{number}": {"apps": [GOOD]} | settings for number, (settings, _found) in enumerate(SETTINGS)},
    **{f"key{number}": {"apps": [GOOD | keys]} for number, (keys, _name, _found) in enumerate(KEYS)},
    "several": {
        "apps": [GOOD | {"domains": ['shop".example'], "helth_path": "/"}],
        "firewall_allow": [{"prot": "tcp", "port": 1}],
        "nginx_http_prt": 8080,
    },
    "login": {"apps": [GOOD], "ansible_user": "shop"},
    "without": {},
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The error of site.yml for all hosts."""
    run = run_playbook(tmp_path_factory.mktemp("inventory"), HOSTS)
    assert run.returncode != 0
    return run.stdout


def test_all_problems_are_in_one_error_before_any_login(refused: str) -> None:
    assert f"The inventory has {len(HOSTS) + 3} problems. No host was changed." in refused
    for line in (
        "host several, app shop, key domains\n",
        "host several, app shop, key helth_path\n",
        "did you mean 'health_path'?",
        "host several, key firewall_allow\n",
        "; 'prot' is an unknown key; did you mean 'proto'?\n",
        "host several, key nginx_http_prt\n",
        "did you mean 'nginx_http_port'?",
    ):
        assert line in refused, refused
    assert "Connect to every host" not in refused


@pytest.mark.parametrize("number", range(len(SETTINGS)), ids=lambda number: "-".join(SETTINGS[number][0]))
def test_an_invalid_setting_is_reported(refused: str, number: int) -> None:
    settings, found = SETTINGS[number]
    assert f"host setting{number}, key {next(iter(settings))}\n    found:    {found}\n" in refused


@pytest.mark.parametrize("number", range(len(KEYS)), ids=lambda number: "-".join(KEYS[number][0]))
def test_an_invalid_key_of_a_build_is_reported(refused: str, number: int) -> None:
    _keys, name, found = KEYS[number]
    assert f"host key{number}, app shop, key {name}\n    found:    {found}\n" in refused


def test_an_invalid_secret_is_not_shown(refused: str) -> None:
    assert "s3cret" not in refused


def test_an_app_cannot_have_the_name_of_the_login_user(refused: str) -> None:
    assert "host login, app shop, key name\n    found:    'shop', which is also ansible_user" in refused


def test_missing_apps_are_reported(refused: str) -> None:
    assert "host without, key apps\n    found:    nothing\n" in refused


# --- other runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("playbook", ["rollback", "status"])
def test_missing_apps_are_one_error_of_every_playbook_before_any_login(play: Play, playbook: str) -> None:
    run = play({"web1": {}}, "-e", "app=shop", playbook=playbook)
    assert run.returncode != 0
    assert "The inventory has a problem. No host was changed.\n" in run.stdout
    assert "host web1, key apps\n    found:    nothing\n" in run.stdout
    assert "Connect to every host" not in run.stdout


def test_an_unknown_app_is_refused_with_the_list_of_apps(play: Play) -> None:
    run = play({"web1": {"apps": [GOOD]}}, "-e", "app=blog")
    assert run.returncode != 0
    assert "option -e app\n" in run.stdout
    assert "the name of an app in the inventory: shop" in run.stdout


def test_with_a_valid_inventory_the_hosts_are_checked_next_also_one_without_apps(play: Play) -> None:
    run = play({"web1": {"apps": [GOOD]}, "web2": {"apps": []}}, "-e", "patience=0")
    assert "web1 (127.0.0.1) can't be reached: " in run.stdout
    assert "web2 (127.0.0.1) can't be reached: " in run.stdout
    assert "reached: Task failed" not in run.stdout
    assert "The inventory has" not in run.stdout


def test_a_rollback_continues_when_the_rest_of_the_inventory_is_invalid(play: Play) -> None:
    apps = [GOOD | {"source": "no/such/folder"}, GOOD | {"name": "blog", "wsgi": "main"}]
    run = play({"web1": {"apps": apps}}, "-e", "app=shop", playbook="rollback")
    assert "web1 (127.0.0.1) can't be reached" in run.stdout, run.stdout
    assert "The inventory has" not in run.stdout


def test_a_rollback_of_an_unknown_app_is_refused(play: Play) -> None:
    run = play({"web1": {"apps": [GOOD]}}, "-e", "app=blog", playbook="rollback")
    assert run.returncode != 0
    assert "the name of an app in the inventory: shop" in run.stdout


def test_a_fact_cache_does_not_keep_the_checks_from_running_again(play: Play, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("ANSIBLE_CACHE_PLUGIN", "jsonfile")
    monkeypatch.setenv("ANSIBLE_CACHE_PLUGIN_CONNECTION", str(tmp_path / "facts"))
    options = [
        "-e",
        "untested_system=true",
        "-e",
        "ansible_connection=local",
        "-e",
        "ansible_python_interpreter=python3",
    ]
    assert play({"web1": {"apps": [GOOD]}}, *options, playbook="check").returncode == 0
    run = play({"web1": {"apps": [GOOD | {"workers": 0}]}}, *options, playbook="check")
    assert "host web1, app shop, key workers\n" in run.stdout


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="the old Ansible does not run on this Python")
def test_an_outdated_ansible_is_refused(play: Play, tmp_path: Path) -> None:
    uv = Path(sys.executable).parent / "uv"
    old = tmp_path / "old"
    subprocess.run([str(uv), "venv", "--quiet", "--python", sys.executable, str(old)], check=True)
    install = [str(uv), "pip", "install", "--quiet", "--system-certs", "--python", str(old), "ansible-core==2.18.*"]
    subprocess.run(install, check=True)
    run = play({"web1": {"apps": [GOOD]}}, ansible=str(old / "bin/ansible-playbook"))
    assert run.returncode != 0
    assert "This is ansible-core 2.18" in run.stdout
    assert "2.19 or newer is required" in run.stdout
    assert "Connect to every host" not in run.stdout


def test_an_inventory_without_hosts_is_an_error(play: Play) -> None:
    """Also for a monitor that runs status.yml and reads nothing but its exit code."""
    empty = play({}, playbook="status")
    assert empty.returncode == 2, empty.stdout
    assert "Add a host to the group webservers" in empty.stdout
    missing = play({}, playbook="status", inventory="inventory/none")
    assert missing.returncode == 1, missing.stdout
    assert "inventory/none" in missing.stdout
