"""The login of a host: possible logins, and the reason of a failure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.blueoctopus.site.plugins.action.reach_host import ActionModule, Logins, parse, reason_of


def test_os_release_is_parsed_without_quotes_and_comments() -> None:
    assert parse('# a comment\nNAME="Debian GNU/Linux"\nID=debian\n') == {"NAME": "Debian GNU/Linux", "ID": "debian"}


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


@pytest.mark.parametrize(
    ("variables", "asked", "given"),
    [
        ({}, "", False),
        ({}, "secret", True),
        ({"ansible_become_password": "secret"}, "", True),
        ({"ansible_become_pass": "secret"}, "", True),
    ],
)
def test_a_password_for_sudo_comes_from_the_inventory_or_the_command_line(
    variables: dict[str, Any], asked: str, given: bool
) -> None:
    action = ActionModule.__new__(ActionModule)
    action._play_context = SimpleNamespace(become_pass=asked)
    assert action.has_sudo_password(variables) == given
