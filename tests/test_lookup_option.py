"""Options -e of ansible-playbook, as they were typed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible_collections.blueoctopus.site.plugins.lookup.option import typed

PROJECT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("since=1 hour ago", "1 hour ago"),
        ("since='1 hour ago'", "1 hour ago"),
        ("since=today", "today"),
        ("since=today grep=error", None),  # two options
        ("app=shop since=today", None),
        ("@since=file", None),
        ('{"since": "today"}', None),
        ("sincerely=yours", None),
    ],
)
def test_the_value_of_an_option_keeps_its_spaces(option: str, value: str | None) -> None:
    assert typed("since", ["app=shop", option], alone=False) == value


@pytest.mark.parametrize(
    "command",
    ["flask db current", "flask run --port=80", "sh -c 'A=1 b'", "python -c \"print('x')\"", "'a' 'b'"],
)
def test_a_command_is_everything_after_its_name(command: str) -> None:
    assert typed("command", [f"command={command}"], alone=True) == command


@pytest.mark.parametrize("command", ["env A=1 flask routes", "flask import app=blog everywhere=true"])
def test_a_command_that_would_set_variables_is_refused(command: str) -> None:
    with pytest.raises(AnsibleError, match="in the option -e command as an option of its own"):
        typed("command", [f"command={command}"], alone=True)
    assert typed("command", [f"command='{command}'"], alone=True) == command


def test_the_last_option_counts() -> None:
    assert typed("since", ["since=today", "since=1 day ago"], alone=False) == "1 day ago"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["-e", "since=1 hour ago"], "[1 hour ago]"),
        (["-e", '{"since": "2 hours ago"}'], "[2 hours ago]"),
        ([], "[always]"),
    ],
)
def test_a_playbook_gets_the_option(tmp_path: Path, options: list[str], shown: str) -> None:
    task = "{debug: {msg: \"[{{ lookup('blueoctopus.site.option', 'since', default='always') }}]\"}}"
    (tmp_path / "play.yml").write_text(f"[{{hosts: localhost, connection: local, tasks: [{task}]}}]")
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "-i", "localhost,", tmp_path / "play.yml", *options],
        cwd=PROJECT,
        env=os.environ | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
    )
    assert shown in done.stdout, done.stdout + done.stderr
