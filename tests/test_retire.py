"""Retiring a webserver: what is refused before any connection."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).resolve().parent.parent
NOWHERE = {"ansible_host": "127.0.0.1", "ansible_port": 9}


@pytest.mark.parametrize(
    ("groups", "options", "reason"),
    [
        ({"webservers": ["web1"]}, ["-e", "retire=web1"], "web1 is the only webserver of the inventory"),
        ({"webservers": ["web1", "web2"]}, [], "host all, option -e retire\n    found:    nothing"),
        ({"webservers": ["web1", "web2"]}, ["-e", "retire=web3"], "found:    'web3'"),
        (
            {"webservers": ["web1", "web2"], "databases": ["web2"]},
            ["-e", "retire=web2"],
            "web2 is also in the group databases",
        ),
        (
            {"webservers": ["web1", "web2"], "balancers": ["lb1", "lb2"]},
            ["-e", "retire=web2", "--limit", "web2:lb1"],
            "This run leaves out lb2, which would still send requests to web2.",
        ),
    ],
)
def test_is_refused_before_any_connection(
    tmp_path: Path, groups: dict[str, list[str]], options: list[str], reason: str
) -> None:
    inventory: dict[str, Any] = {name: {"hosts": dict.fromkeys(hosts, NOWHERE)} for name, hosts in groups.items()}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        [
            Path(sys.executable).parent / "ansible-playbook",
            "playbooks/retire.yml",
            "-i",
            tmp_path / "hosts.yml",
            *options,
        ],
        cwd=PROJECT,
        env=environment | {"LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert reason in done.stdout, done.stdout
    assert "No host was changed" in done.stdout
    assert "can't be reached" not in done.stdout
