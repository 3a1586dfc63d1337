"""Convert the inventory for the balancers in front of the webservers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.blueoctopus.site.plugins.plugin_utils.balancers import (
    OWN,
    Groups,
    Hostvars,
    address_of,
    apps_only_on,
    balanced_apps,
    serve_clients,
)
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import keys_with


def balancer_addresses(hostvars: Hostvars, groups: Groups, host: str = "") -> list[str]:
    """The addresses from which the balancers, or one of them, connect to the webservers."""
    return [peer["address"] for peer in balancer_peers(hostvars, groups) if host in ("", peer["name"])]


def balancer_peers(hostvars: Hostvars, groups: Groups, host: str = "") -> list[dict[str, Any]]:
    """Name, address and port for HTTP of the balancers, without one host."""
    others = {name: hostvars[name] for name in groups.get("balancers", []) if name != host}
    return [{"name": name, "address": address_of(found, name, OWN), "port": 80} for name, found in others.items()]


def challenge_servers(hostvars: Hostvars, groups: Groups) -> list[str]:
    """The balancers as ADDRESS:PORT, for nginx."""
    peers = balancer_peers(hostvars, groups)
    return [
        f"[{peer['address']}]:{peer['port']}" if ":" in peer["address"] else f"{peer['address']}:{peer['port']}"
        for peer in peers
    ]


def balancer_sites(hostvars: Hostvars, groups: Groups) -> list[dict[str, Any]]:
    """The sites for the role balancer: what clients request, and the webservers that have it."""
    kept = ("name", "servers", *keys_with("balancers", "site"))
    apps = balanced_apps(hostvars, groups).values()
    return [{key: app[key] for key in kept} | {"tls": app["tls"] != "none"} for app in apps]


def balancer_certificates(hostvars: Hostvars, groups: Groups) -> list[dict[str, Any]]:
    """The sites for the role certificate: their domains, and how to obtain their certificates."""
    kept = ("name", "domains", "path", *keys_with("balancers", "certificate"))
    return [{key: app[key] for key in kept if key in app} for app in balanced_apps(hostvars, groups).values()]


def deployed_hosts(results: Mapping[str, Mapping[str, Any]], hostvars: Hostvars) -> list[str]:
    """The hosts to which a run has deployed all apps that they have.

    Args:
        results: what the role app returns on each host: a plan for each app, with the hosts that it is for. All hosts
            have the same plans, also those that the run has lost.
        hostvars: the variables of all hosts.
    """
    return [
        host
        for host, plans in results.items()
        if all(host in plans.get(app["name"], {"hosts": []})["hosts"] for app in hostvars[host]["apps"])
    ]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {
            "apps_only_on": lambda hostvars, groups, host: apps_only_on([host], hostvars, groups),
            "balancer_addresses": balancer_addresses,
            "balancer_certificates": balancer_certificates,
            "balancer_peers": balancer_peers,
            "balancer_sites": balancer_sites,
            "challenge_servers": challenge_servers,
            "deployed_hosts": deployed_hosts,
            "serve_clients": serve_clients,
        }
