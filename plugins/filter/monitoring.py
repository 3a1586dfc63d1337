"""The hosts that a monitor reads metrics from, for the roles metrics and monitor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.blueoctopus.site.plugins.filter.databases import databases_of
from ansible_collections.blueoctopus.site.plugins.plugin_utils.databases import Groups, Hostvars
from ansible_collections.blueoctopus.site.plugins.plugin_utils.monitoring import (
    client_addresses,
    metrics_address,
    metrics_hosts,
)
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import setting


def monitor_addresses(hostvars: Hostvars, groups: Groups) -> list[str]:
    """The addresses from which the monitors connect to the other hosts."""
    found = {address for host in groups.get("monitors", []) for address in client_addresses(hostvars[host], host)}
    return sorted(found)


def monitor_targets(hostvars: Hostvars, groups: Groups, monitor: str, roots: Mapping[str, str]) -> list[dict[str, Any]]:
    """The targets of a monitor, for the role monitor.

    Args:
        hostvars: the variables of all hosts.
        groups: the groups of the inventory.
        monitor: name of the monitor, which reaches itself through localhost.
        roots: the root certificates of the hosts on which this run has configured metrics, by their names.
    """
    targets = []
    for host in metrics_hosts(groups):
        variables = hostvars[host]
        by_group = {"nginx": "webservers", "haproxy": "balancers"}
        exporters = ["node", *(name for name, group in by_group.items() if host in groups.get(group, []))]
        targets.append(
            {
                "name": host,
                "address": "127.0.0.1" if host == monitor else metrics_address(variables, host),
                "server_name": metrics_address(variables, host),
                "port": int(setting(variables, "metrics_port")),
                "exporters": exporters + (["postgres"] if databases_of(host, hostvars, groups) else []),
                "root": str(roots.get(host, "")),
            }
        )
    return targets


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {
            "metrics_address": metrics_address,
            "metrics_hosts": metrics_hosts,
            "monitor_addresses": monitor_addresses,
            "monitor_targets": monitor_targets,
        }
