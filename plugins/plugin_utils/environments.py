"""The environments in one folder, such as production and staging: no host in two of them, no secrets of the example."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import plain
from ansible_collections.blueoctopus.site.plugins.plugin_utils.validation import Problem

Hostvars = Mapping[str, Mapping[str, Any]]
Load = Callable[[str], Any]  # reads a YAML file
PREFIX, UNSET = "vault_", "CHANGE_ME"  # of the variables in vault.yml, and their values in vault.yml.example
HOSTS = "hosts.yml"


def find_environment_problems(
    hosts: Iterable[str], hostvars: Hostvars, sources: Iterable[str], load: Load
) -> Iterator[tuple[str, Problem]]:
    """Find what can't work in an inventory whose keys are valid, one by one: the host of each problem, and the problem.

    Args:
        hosts: the hosts of the run.
        hostvars: the variables of all hosts.
        sources: the inventories of the run, as ansible_inventory_sources.
        load: reads a YAML file.
    """
    used = {Path(source).resolve() for source in sources if Path(source).is_dir()}
    files = sorted({file for folder in used for file in folder.parent.glob(f"*/{HOSTS}")})
    environments = {file: dict(hosts_of(load(str(file)))) for file in files}
    for host in hosts:
        yield from find_unset_secrets(host, hostvars[host])
        own = address_of(host, hostvars[host])
        found = [
            f"{file.parent.name}/{HOSTS}"
            for file, listed in environments.items()
            if own in listed.values() or (file.parent in used and host in listed)
        ]
        if len(found) > 1:
            expected = "a host of one environment only, and a run with one environment: each host has one set of apps"
            yield (
                host,
                Problem("key ansible_host", f"{own[0]} in {' and '.join(found)}", expected, "-i inventory/production"),
            )


def find_unset_secrets(host: str, variables: Mapping[str, Any]) -> Iterator[tuple[str, Problem]]:
    """The variables of vault.yml that still have the value of the example."""
    for name in [name for name in variables if name.startswith(PREFIX)]:
        try:
            value = plain(variables[name])
        except AnsibleError:  # reported with the key that uses it, if there is one
            continue
        if UNSET in str(value):
            expected = (
                "a secret of your own: ansible-vault edit, on the vault.yml of this host's groups; docs/secrets.md"
            )
            example = f"{name}: 3f9ac2…"
            yield host, Problem(f"key {name}", "CHANGE_ME, the value of the example", expected, example)


def address_of(host: str, variables: Mapping[str, Any] | None) -> tuple[str, str]:
    """The address and the port of SSH at which Ansible finds a host."""
    known = variables or {}
    return str(known.get("ansible_host", host)), str(known.get("ansible_port", 22))


def hosts_of(groups: Any) -> Iterator[tuple[str, tuple[str, str]]]:
    """The hosts in the groups of a hosts.yml, with their addresses."""
    for group in groups.values() if isinstance(groups, Mapping) else []:
        if isinstance(group, Mapping):
            yield from ((str(name), address_of(str(name), found)) for name, found in (group.get("hosts") or {}).items())
            yield from hosts_of(group.get("children"))
