"""The configuration of keepalived, which keepalived itself validates before it replaces the current one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parent.parent
ROLE = PROJECT / "roles/balancer"
INTERFACES = sorted(path.name for path in Path("/sys/class/net").glob("*") if path.name != "lo")
pytestmark = [
    pytest.mark.needs("keepalived"),
    pytest.mark.slow,
    pytest.mark.skipif(not INTERFACES, reason="keepalived refuses the loopback interface, and there is no other one"),
]
# For each host: the number of the virtual router, and the error.
HOSTS = {"valid": (51, ""), "invalid": (999, "number '999' outside range [1, 255]")}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Run the task of the role for each host: the folder with the files, and the results.

    For each host, CHECKED is the result in check mode without the folder of the file, and WRITTEN the next one.
    """
    folder = tmp_path_factory.mktemp("keepalived")
    tasks = yaml.safe_load((ROLE / "tasks/keepalived.yml").read_text())
    (task,) = [task for task in tasks if task["name"] == "Configure keepalived"]
    dest = f"{folder}/{{{{ inventory_hostname }}}}/keepalived.conf"
    task["ansible.builtin.template"] |= {"src": str(ROLE / "templates/keepalived.conf.j2"), "dest": dest}
    del task["notify"]
    shown = "{{ {inventory_hostname: {'checked': checked, 'written': written}} | to_json }}"
    play = {
        "hosts": "all",
        "vars": {
            "__balancer_alive": "/bin/true",
            "__balancer_interface": {"stdout": f"{INTERFACES[0]}  UP  192.0.2.11/24"},
            "balancer_priority": 100,
            "balancer_own_address": "192.0.2.11",
            "balancer_peers": [{"name": "lb2", "address": "192.0.2.12"}],
            "balancer_address": "192.0.2.10/24",
        },
        "tasks": [
            task | {"check_mode": True, "register": "checked"},
            {"ansible.builtin.file": {"path": dest.rpartition("/")[0], "state": "directory", "mode": "0755"}},
            task | {"register": "written", "ignore_errors": True},
            {"ansible.builtin.copy": {"content": shown, "dest": f"{dest.rpartition('/')[0]}.json", "mode": "0644"}},
        ],
    }
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    hosts = {host: {"balancer_router_id": number} for host, (number, _) in HOSTS.items()}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        ["ansible-playbook", "-i", "hosts.yml", "-c", "local", "play.yml"],
        cwd=folder,
        env=environment | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = {}
    for host in HOSTS:
        found |= yaml.safe_load((folder / f"{host}.json").read_text())
    return folder, found


@pytest.mark.parametrize("host", HOSTS)
def test_only_a_valid_configuration_is_written(results: tuple[Path, dict[str, Any]], host: str) -> None:
    folder, found = results
    written, error = found[host]["written"], HOSTS[host][1]
    path = folder / host / "keepalived.conf"
    assert written["failed"] == bool(error), written
    assert error in written.get("stdout", "") + written.get("msg", ""), written
    assert path.exists() != bool(error)
    assert error or path.stat().st_mode & 0o777 == 0o640


def test_check_mode_predicts_the_file_on_a_host_without_keepalived(results: tuple[Path, dict[str, Any]]) -> None:
    assert results[1]["valid"]["checked"]["changed"]
