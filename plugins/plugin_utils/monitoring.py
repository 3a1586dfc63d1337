"""The hosts that a monitor reads metrics from: their names, their addresses, settings that can't work."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.blueoctopus.site.plugins.plugin_utils.databases import Groups, Hostvars
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import hosts_in, plain, setting
from ansible_collections.blueoctopus.site.plugins.plugin_utils.validation import Problem


def metrics_hosts(groups: Groups) -> list[str]:
    """The hosts that offer metrics: all, as soon as there is a monitor."""
    return hosts_in(groups) if hosts_in(groups, "monitors") else []


def metrics_address(variables: Mapping[str, Any], host: str) -> str:
    """The address at which the monitors reach a host."""
    return str(variables.get("metrics_address") or variables.get("ansible_host", host))


def client_addresses(variables: Mapping[str, Any], host: str) -> list[str]:
    """The addresses from which a monitor connects to the other hosts."""
    return [*map(str, plain(variables.get("monitor_client_addresses")) or [variables.get("ansible_host", host)])]


def find_monitor_problems(hosts: Iterable[str], hostvars: Hostvars, groups: Groups) -> Iterator[tuple[str, Problem]]:
    """Find what can't work with the group monitors, one by one: the host of each problem, and the problem.

    Args:
        hosts: the hosts of this run.
        hostvars: the variables of all hosts.
        groups: the groups of the inventory.
    """
    for monitor in groups.get("monitors", []):
        if monitor not in hosts:
            continue
        variables = hostvars[monitor]
        if not list(groups.get("webservers", [])):
            expected = "a group webservers, with the hosts to monitor"
            yield monitor, Problem("group monitors", "no host to monitor", expected, "webservers: {hosts: {web1: {}}}")
        has_receiver = any(plain(variables.get(name)) for name in ("alert_webhook", "alert_mail"))
        if not has_receiver and setting(variables, "monitor_sends_alerts"):
            where = "keys alert_webhook, alert_mail"
            expected = "who gets the alerts: one of them, or both; or monitor_sends_alerts: false, to send none"
            yield monitor, Problem(where, "nothing", expected, "alert_mail: [you@example.org]")
        port, tls = str(setting(variables, "alert_smtp_port")), setting(variables, "alert_smtp_tls")
        if (tls == "tls") != (port == "465"):
            found = f"{port}, with alert_smtp_tls: {tls}"
            expected = (
                "465 with alert_smtp_tls: tls, another port without it: Alertmanager uses implicit TLS only on port 465"
            )
            yield monitor, Problem("key alert_smtp_port", found, expected, "alert_smtp_port: 465\nalert_smtp_tls: tls")
        for address in client_addresses(variables, monitor):
            try:
                ipaddress.ip_network(address, strict=False)
            except ValueError:
                found = f"nothing, and ansible_host is the name {address}"
                expected = f"the IP addresses from which {monitor} connects to the hosts, for their firewalls"
                example = "monitor_client_addresses: [198.51.100.9]"
                yield monitor, Problem("key monitor_client_addresses", found, expected, example)
