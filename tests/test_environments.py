"""Environments: what they share, values of one host, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.blueoctopus.site.plugins.plugin_utils.environments import find_environment_problems
from app_entries import GOOD

PROJECT = Path(__file__).resolve().parent.parent
ADDRESS = "198.51.100.7"


def problems(folder: Path, runs: list[str], **environments: dict[str, dict[str, Any]]) -> list[str]:
    """The problems of a run with some environments, given all of them: their webservers with their variables."""
    for name, hosts in environments.items():
        (folder / name).mkdir()
        (folder / name / "hosts.yml").write_text(
            yaml.safe_dump({"web": {"children": {"webservers": {"hosts": hosts}}}})
        )
    hostvars = {host: found for name in runs for host, found in environments[name].items()}
    found = find_environment_problems(
        hostvars, hostvars, [str(folder / name) for name in runs], lambda file: yaml.safe_load(Path(file).read_text())
    )
    return [f"{host}: {problem.where}: {problem.found}" for host, problem in found]


def test_a_machine_that_two_environments_have_is_refused_under_any_name(tmp_path: Path) -> None:
    both = {"production": {"web1": {"ansible_host": ADDRESS}}, "staging": {"test1": {"ansible_host": ADDRESS}}}
    (found,) = problems(tmp_path, ["production"], **both)
    assert found == f"web1: key ansible_host: {ADDRESS} in production/hosts.yml and staging/hosts.yml"


def test_a_run_with_two_environments_that_have_a_host_of_the_same_name_is_refused(tmp_path: Path) -> None:
    both = {"production": {"web1": {"ansible_host": ADDRESS}}, "staging": {"web1": {"ansible_host": "198.51.100.8"}}}
    assert len(problems(tmp_path, ["production", "staging"], **both)) == 1


def test_machines_of_their_own_and_ports_of_their_own_are_no_problem(tmp_path: Path) -> None:
    production: dict[str, dict[str, Any]] = {
        "web1": {"ansible_host": ADDRESS},
        "web2": {"ansible_host": "127.0.0.1", "ansible_port": 2201},
    }
    staging: dict[str, dict[str, Any]] = {
        "web1": {"ansible_host": "198.51.100.8"},
        "web2": {"ansible_host": "127.0.0.1", "ansible_port": 2202},
    }
    assert problems(tmp_path, ["production"], production=production, staging=staging) == []


def test_secrets_with_the_value_of_the_example_are_refused(tmp_path: Path) -> None:
    example = yaml.safe_load((PROJECT / "inventory/production/group_vars/webservers/vault.yml.example").read_text())
    assert example
    found = problems(tmp_path, ["production"], production={"web1": example | {"vault_own": "3f9a"}})
    assert found == [f"web1: key {name}: CHANGE_ME, the value of the example" for name in example]


# --- with Ansible ---------------------------------------------------------------------------------------------------


def write(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(yaml.safe_dump(content))


def ansible(program: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(
        [str(Path(sys.executable).parent / program), *options],
        cwd=PROJECT,
        env=environment | {"LC_ALL": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def inventories(tmp_path: Path) -> Path:
    """Two environments that share the apps, as docs/environments.md shows, with hosts that can't be reached."""
    app = GOOD | {"domains": "{{ shop_domains }}", "workers": "{{ shop_workers | default(3) }}"}
    write(
        tmp_path,
        {
            "common/main.yml": {"apps": [app], "base_timezone": "Europe/Berlin", "shop_domains": ["nobody.example"]},
            "production/group_vars/all/main.yml": {"shop_domains": ["shop.example"]},
            "production/host_vars/web2.yml": {"shop_workers": 9},
            "staging/group_vars/all/main.yml": {"shop_domains": ["staging.example"], "base_timezone": "Etc/UTC"},
        },
    )
    for number, name in enumerate(("production", "staging")):
        (tmp_path / name / "group_vars/all/common").symlink_to("../../../common")
        hosts = {host: {"ansible_host": "127.0.0.1", "ansible_port": 9 + number} for host in ("web1", "web2")}
        hosts["web2"]["ansible_port"] = 19 + number
        write(tmp_path, {f"{name}/hosts.yml": {"webservers": {"hosts": hosts}}})
    return tmp_path


def variables(inventory: Path, host: str) -> dict[str, Any]:
    """The variables of a host, as Ansible evaluates them."""
    shown = '{{ {"workers": apps[0].workers, "domains": apps[0].domains, "zone": base_timezone} | to_json }}'
    done = ansible("ansible", host, "-i", str(inventory), "-m", "ansible.builtin.debug", "-a", f"msg='{shown}'")
    text = done.stdout[done.stdout.index("{", done.stdout.index("msg")) : done.stdout.rindex("}") + 1]
    return dict(json.loads(text))


@pytest.mark.slow
def test_environments_share_values_and_a_host_or_an_environment_has_others(inventories: Path) -> None:
    production = {host: variables(inventories / "production", host) for host in ("web1", "web2")}
    staging = variables(inventories / "staging", "web1")
    assert production["web1"] == {"workers": 3, "domains": ["shop.example"], "zone": "Europe/Berlin"}
    assert production["web2"] == production["web1"] | {"workers": 9}
    assert staging == {"workers": 3, "domains": ["staging.example"], "zone": "Etc/UTC"}


@pytest.mark.slow
def test_limit_checks_and_reaches_only_the_hosts_in_it(inventories: Path) -> None:
    playbook = str(PROJECT / "playbooks/site.yml")
    done = ansible(
        "ansible-playbook", playbook, "-i", str(inventories / "production"), "--limit", "web2", "-e", "patience=0"
    )
    assert "web2 (127.0.0.1) can't be reached" in done.stdout, done.stdout
    assert "web1 (127.0.0.1)" not in done.stdout


@pytest.mark.slow
def test_a_host_in_both_environments_is_refused_before_any_host_is_reached(inventories: Path) -> None:
    write(
        inventories,
        {"staging/hosts.yml": {"webservers": {"hosts": {"test": {"ansible_host": "127.0.0.1", "ansible_port": 9}}}}},
    )
    done = ansible("ansible-playbook", str(PROJECT / "playbooks/site.yml"), "-i", str(inventories / "production"))
    assert "127.0.0.1 in production/hosts.yml and staging/hosts.yml" in done.stdout, done.stdout
    assert "No host was changed." in done.stdout
    assert "can't be reached" not in done.stdout


@pytest.mark.slow
def test_the_example_of_a_dynamic_inventory_puts_hosts_into_the_groups_that_their_labels_name(tmp_path: Path) -> None:
    example = yaml.safe_load((PROJECT / "examples/inventory/hcloud.yml").read_text())
    labels = {"web1": {"role": "webserver"}, "lb1": {"role": "balancer"}, "db1": {"role": "database"}, "other": {}}
    hosts = {host: {"hcloud_labels": found} for host, found in labels.items()}
    constructed = {"plugin": "ansible.builtin.constructed", "compose": example["compose"], "groups": example["groups"]}
    write(tmp_path, {"1-servers.yml": {"all": {"hosts": hosts}}, "2-constructed.yml": constructed})
    done = ansible("ansible-inventory", "-i", str(tmp_path), "--list")
    found = json.loads(done.stdout[done.stdout.index("{") :])
    groups = {name: found[name]["hosts"] for name in example["groups"]}
    assert groups == {"webservers": ["web1"], "balancers": ["lb1"], "databases": ["db1"]}
    # A text that contains no template, however this version of Ansible writes that.
    assert found["_meta"]["hostvars"]["web1"]["ansible_user"] in ("root", {"__ansible_unsafe": "root"})
