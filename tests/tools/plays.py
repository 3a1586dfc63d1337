"""Runs of Ansible against this computer."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parent.parent.parent


def run_play(folder: Path, tasks: str, *options: str, hosts: str = "web1", color: bool = False) -> str:
    """Run tasks, or a whole playbook, with the settings of this project on local hosts; return what is printed."""
    tasks = textwrap.dedent(tasks)
    if not tasks.startswith("- hosts:"):
        tasks = textwrap.indent(tasks, "    ")
        tasks = f"- hosts: all\n  name: Provision\n  gather_facts: false\n  tasks:\n{tasks}"
    (folder / "play.yml").write_text(tasks)
    inventory = {"all": {"hosts": dict.fromkeys(hosts.split()), "vars": {"ansible_connection": "local"}}}
    (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
    own = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    colors = {"ANSIBLE_FORCE_COLOR": "1"} if color else {"ANSIBLE_NOCOLOR": "1"}
    fixed = {
        "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
        "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
        "LC_ALL": "C.UTF-8",
    }
    return subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "play.yml", "-i", "hosts.yml", *options],
        cwd=folder,
        env=own | colors | fixed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ).stdout
