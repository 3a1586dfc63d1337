"""The playbooks as Ansible reads them without connecting to a host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).resolve().parent.parent


def test_ansible_reads_every_playbook_with_the_shipped_inventory() -> None:
    paths = sorted((PROJECT / "playbooks").glob("*.yml"))
    assert len(paths) > 10
    program = Path(sys.executable).parent / "ansible-playbook"
    done = subprocess.run(
        [program, "--list-tasks", "-i", "inventory/production", *paths],
        cwd=PROJECT,
        env={name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_drain_without_balancers_is_refused_before_any_connection() -> None:
    done = subprocess.run(
        [
            Path(sys.executable).parent / "ansible-playbook",
            "playbooks/drain.yml",
            "-e",
            "server=web1",
            "-e",
            "state=drain",
        ],
        cwd=PROJECT,
        env={name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "has no group balancers" in done.stdout
    assert "unreachable=0" in done.stdout
