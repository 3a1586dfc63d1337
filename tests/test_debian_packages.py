"""The tasks of the roles app and base that install Debian packages, in check mode on the control node."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parent.parent
MODULE = "blueoctopus.site.debian_packages"
pytestmark = [pytest.mark.needs("dpkg-query"), pytest.mark.slow]
# The tasks that call apt: the file of each in its role, its module, and the play that runs it.
TASKS = {
    ("base", "main"): (MODULE, "provision", "Install packages and secure the hosts"),
    ("app", "main"): (MODULE, "deploy", "Deploy the apps"),
    ("metrics", "remove"): ("ansible.builtin.apt", "provision", "Install packages and secure the hosts"),
}
# For each host: two lists of packages, the value of base_lock_timeout, and what the run shows.
HOSTS: dict[str, tuple[list[str], list[str], Any, str]] = {
    "without": ([], [], 600, ""),
    "installed": (["dpkg"], ["bash", "dpkg"], 600, ""),
    "provided": (["awk"], ["awk", "bash"], 600, ""),  # a virtual package, which mawk or gawk provides
    "missing": (["dpkg", "libnone1"], ["none-dev"], 600, "Would install libnone1, none-dev"),
    "invalid": (["dpkg"], ["none-dev"], "soon", "lock_timeout"),
}


def find_tasks(tasks: list[dict[str, Any]], module: str) -> Iterator[dict[str, Any]]:
    """The tasks that use a module, also in blocks."""
    for task in tasks:
        if module in task:
            yield task
        yield from find_tasks(task.get("block", []), module)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of a run with a play for the task of each role, with the module_defaults of the playbook."""
    folder = tmp_path_factory.mktemp("packages")
    plays = []
    for (role, file), (module, playbook, name) in TASKS.items():
        (task,) = find_tasks(yaml.safe_load((PROJECT / f"roles/{role}/tasks/{file}.yml").read_text()), module)
        described = yaml.safe_load((PROJECT / f"playbooks/{playbook}.yml").read_text())
        (play,) = [play for play in described if play["name"] == name]
        variables = {key: value for key, value in play["vars"].items() if key == "lock_timeout"}
        chosen = "all" if module == MODULE else "invalid"  # apt itself would need python3-apt
        plays.append({"name": role, "hosts": chosen, "module_defaults": play["module_defaults"], "vars": variables})
        plays[-1]["tasks"] = [task, {"ansible.builtin.meta": "clear_host_errors"}]  # the next play has all hosts again
    (folder / "play.yml").write_text(yaml.safe_dump(plays))
    hosts: dict[str, dict[str, Any]] = {}
    for host, (first, second, timeout, _) in HOSTS.items():
        app = {"packages": first, "build_packages": second}
        base = {
            "base_packages": first,
            "base_role_packages": [],
            "base_build_tools": False,
            "base_extra_packages": second,
        }
        hosts[host] = {"__app_entry": app, **base, "base_lock_timeout": timeout, "__metrics_exporters": {}}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        ["ansible-playbook", "--check", "--diff", "-i", "hosts.yml", "-c", "local", "play.yml"],
        cwd=folder,
        env=environment | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.stdout


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("role", ["base", "app"])
def test_only_missing_packages_are_installed(output: str, role: str, host: str) -> None:
    shown = HOSTS[host][-1]
    found = shown_for(output, role, host)
    assert len(found) == bool(shown), output
    assert not shown or shown in found[0], output


def test_apt_gets_the_lock_timeout_of_the_inventory_also_when_it_removes_packages(output: str) -> None:
    assert "lock_timeout" in shown_for(output, "metrics", "invalid")[0], output


def shown_for(output: str, role: str, host: str) -> list[str]:
    """The first line below each result of a host in the play of a role."""
    part = output.partition(f"PLAY [{role}]")[2].partition("\nPLAY ")[0]
    return re.findall(rf"^\w+: \[{host}\].*\n(.*)", part, re.MULTILINE)
