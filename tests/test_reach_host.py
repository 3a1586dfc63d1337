"""The login of a host: possible logins, and the reason of a failure."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.blueoctopus.site.plugins.action.reach_host import ACCOUNTS, Logins, parse, reason_of

PROJECT = Path(__file__).resolve().parent.parent


def test_os_release_is_parsed_without_quotes_and_comments() -> None:
    assert parse('# a comment\nNAME="Debian GNU/Linux"\nID=debian\n') == {"NAME": "Debian GNU/Linux", "ID": "debian"}


def test_the_accounts_with_given_names_are_found_with_their_homes() -> None:
    # mail is a user and a group, adm is only a group, and the last two are neither.
    script = ACCOUNTS.format(names=shlex.join(["mail", "adm", "no-such-name", "$(id)"]))
    output = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert parse(output) == {"HOME:mail": pwd.getpwnam("mail").pw_dir, "HOME:adm": ""}


@pytest.mark.parametrize(
    ("logins", "candidates"),
    [
        (Logins(("root", 22), "", 0), [("admin", 22), ("root", 22)]),
        (Logins(("debian", 22), "", 0), [("debian", 22)]),
        (
            Logins(("root", 22), "anna", 2222),
            [("anna", 2222), ("root", 2222), ("anna", 22), ("root", 22)],
        ),
    ],
)
def test_the_login_of_a_provisioned_host_is_tried_first(logins: Logins, candidates: list[tuple[str, int]]) -> None:
    assert logins.candidates() == candidates


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("Failed to connect to the host via ssh: Connection refused", "Connection refused"),
        ("a banner\nPermission denied (publickey).\n", "Permission denied (publickey)."),
        ("Host key verification failed.\nlast line", "Host key verification failed."),
    ],
)
def test_the_reason_is_the_last_or_the_fatal_line_of_ssh(output: str, reason: str) -> None:
    assert reason_of(AnsibleConnectionFailure(output)) == reason


@pytest.fixture(scope="module", params=["", "secret"], ids=["not asked", "asked"])
def given(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, bool]:
    """For each host, whether the task of playbooks/check.yml finds a password for sudo; some have one in the inventory.

    The parameter is the password that --ask-become-pass asks for; empty without that option.
    """
    folder = tmp_path_factory.mktemp("reached")
    (folder / "password").write_text(request.param)
    (folder / "sudo").write_text("#!/bin/sh\n")  # needs no password
    (folder / "sudo").chmod(0o755)
    _, play = yaml.safe_load((PROJECT / "playbooks/check.yml").read_text())
    tasks = [task for task in play["tasks"] if "blueoctopus.site.reach_host" in task]
    shown = {"msg": "{{ inventory_hostname }} {{ reached.sudo_password_given }}"}
    tasks.append({"ansible.builtin.debug": shown})
    (folder / "play.yml").write_text(yaml.safe_dump([{"hosts": "all", "vars": play["vars"], "tasks": tasks}]))
    hosts = {"none": {}, "password": {"ansible_become_password": "a"}, "pass": {"ansible_become_pass": "{{ 'a' }}"}}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment |= {"ANSIBLE_CONFIG": f"{PROJECT}/ansible.cfg", "PATH": f"{folder}:{os.environ['PATH']}"}
    asked = ["--become-password-file", "password"] if request.param else []
    done = subprocess.run(
        ["ansible-playbook", "-i", "hosts.yml", "-c", "local", *asked, "play.yml"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    found = {host: value == "True" for host, value in re.findall(r"^(\w+) (True|False)$", done.stdout, re.MULTILINE)}
    assert set(found) == set(hosts), done.stdout + done.stderr
    return found | {"asked": bool(request.param)}


def test_a_password_for_sudo_comes_from_the_inventory_or_the_command_line(given: dict[str, bool]) -> None:
    assert given == {"none": given["asked"], "password": True, "pass": True, "asked": given["asked"]}
