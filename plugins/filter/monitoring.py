"""The hosts that a monitor looks at, for the roles metrics and monitor."""

from __future__ import annotations

from typing import Any

from ansible_collections.blueoctopus.site.plugins.filter.databases import databases_of
from ansible_collections.blueoctopus.site.plugins.plugin_utils.databases import Groups, Hostvars
from ansible_collections.blueoctopus.site.plugins.plugin_utils.monitoring import (
    client_addresses,
    metrics_address,
    metrics_hosts,
)
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import plain

PORT = 9998  # the default of metrics_port


def monitor_addresses(hostvars: Hostvars, groups: Groups) -> list[str]:
    """The addresses from which the monitors connect to the other hosts."""
    found = {address for host in groups.get("monitors", []) for address in client_addresses(hostvars[host], host)}
    return sorted(found)


def monitor_authorities(hostvars: Hostvars, groups: Groups) -> list[str]:
    """The root certificates of the monitors; empty when this run has not reached all of them.

    They have run the role monitor in this run: its result is the variable `monitor_authority`.
    """
    found = [hostvars[host].get("monitor_authority", {}).get("root") for host in groups.get("monitors", [])]
    return [str(root) for root in found] if None not in found else []


def monitor_targets(hostvars: Hostvars, groups: Groups, monitor: str) -> list[dict[str, Any]]:
    """What a monitor looks at, for the role monitor.

    Args:
        hostvars: the variables of all hosts. `metrics_authority` is the result of the role metrics in this run.
        groups: the groups of the inventory.
        monitor: name of the monitor, which reaches itself through localhost.
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
                "port": int(variables.get("metrics_port") or PORT),
                "exporters": exporters + (["postgres"] if databases_of(host, hostvars, groups) else []),
                "root": plain(variables.get("metrics_authority", {})).get("root", ""),
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
            "monitor_authorities": monitor_authorities,
            "monitor_targets": monitor_targets,
        }
