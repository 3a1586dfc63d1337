"""The balancers in front of the webservers: their addresses, the sites that they distribute, and what can't work."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import (
    example_of,
    keys_with,
    machine_settings,
    plain,
    setting,
    with_defaults,
)
from ansible_collections.blueoctopus.site.plugins.plugin_utils.validation import Problem, is_address

Groups = Mapping[str, Iterable[str]]
Hostvars = Mapping[str, Mapping[str, Any]]
OWN, SERVER, SHARED = "balancer_own_address", "balancer_server_address", "balancer_address"
STATISTICS = "balancer_stats_address"


def address_of(variables: Mapping[str, Any], host: str, key: str) -> str:
    """The address of a balancer or webserver for the others: the setting `key`, or else ansible_host."""
    return str(variables.get(key) or variables.get("ansible_host", host))


def serve_clients(hostvars: Hostvars, groups: Groups) -> bool:
    """Whether clients may connect to the webservers themselves: without balancers, or with balancer_only: false."""
    balancers = list(groups.get("balancers", []))
    return not balancers or not all(setting(hostvars[host], "balancer_only") for host in balancers)


def balanced_apps(hostvars: Hostvars, groups: Groups) -> dict[str, dict[str, Any]]:
    """The apps with domains of their own, with their defaults, by name.

    Each has the additional key `servers`: name, address and port of the webservers with the app. Its `timeout` is the
    longest of the apps with its domain.
    """
    found: dict[str, dict[str, Any]] = {}
    timeouts: dict[str, int] = {}
    for web in groups.get("webservers", []):
        variables = hostvars[web]
        for app in map(with_defaults, plain(variables.get("apps") or [])):
            domain = app["domains"][0]
            timeouts[domain] = max(timeouts.get(domain, 0), app["timeout"])
            if app["path"] == "/":
                port = "nginx_http_port" if app["tls"] == "none" else "nginx_https_port"
                server: dict[str, Any] = {"name": web, "address": address_of(variables, web, SERVER)}
                server["port"] = int(setting(variables, port))
                found.setdefault(app["name"], {**app, "servers": []})["servers"].append(server)
    return {name: app | {"timeout": timeouts[app["domains"][0]]} for name, app in found.items()}


def apps_only_on(hosts: Collection[str], hostvars: Hostvars, groups: Groups) -> list[str]:
    """The names of the apps that no other webserver has than some hosts."""
    names = {web: {app["name"] for app in plain(hostvars[web].get("apps") or [])} for web in groups["webservers"]}
    elsewhere = set().union(*(found for web, found in names.items() if web not in hosts))
    return sorted(set().union(*(found for web, found in names.items() if web in hosts)) - elsewhere)


# --- what can't work ------------------------------------------------------------------------------------------------


def find_balancer_problems(hostvars: Hostvars, groups: Groups) -> Iterator[tuple[str, Problem]]:
    """Find what can't work in an inventory whose keys are valid, one by one: the host of each problem, and the problem.

    Args:
        hostvars: the variables of all hosts.
        groups: the groups of the inventory.
    """
    balancers, webs = list(groups.get("balancers", [])), list(groups.get("webservers", []))
    if not balancers:
        return
    if not webs:
        expected = "the hosts to which the balancers send requests"
        yield balancers[0], Problem("group webservers", "no hosts", expected, "webservers: {hosts: {web1: {}}}")
        return
    for host in balancers:
        if host in webs:
            expected = "another host: both receive requests on the same ports"
            yield (
                host,
                Problem("group balancers", f"{host}, which is a webserver", expected, "balancers: {hosts: {lb1: {}}}"),
            )
    addresses = [(host, OWN) for host in balancers] + [(host, SERVER) for host in webs]
    unusable = [problem for host, key in addresses for problem in find_name(host, hostvars[host], key)]
    yield from unusable
    if not unusable:
        yield from find_shared_address_problems(balancers, hostvars)
    yield from find_statistics_problems(balancers, hostvars)
    for web in webs:
        yield from find_settings_problems(web, hostvars, balancers)
    yield from find_app_problems(webs, hostvars)


def find_name(host: str, variables: Mapping[str, Any], key: str) -> Iterator[tuple[str, Problem]]:
    """An address that is a name: firewalls and nginx need numbers."""
    address = address_of(variables, host, key)
    if not is_address(address) or "/" in address:
        found = f"'{address}'" if variables.get(key) else f"nothing, and ansible_host is the name {address}"
        yield host, Problem(f"key {key}", found, "an IP address", example_of(key, machine_settings()[key]))


def find_shared_address_problems(balancers: list[str], hostvars: Hostvars) -> Iterator[tuple[str, Problem]]:
    """The problems of the address that the balancers share."""
    where, example = f"key {SHARED}", example_of(SHARED, machine_settings()[SHARED])
    values = {host: str(hostvars[host].get(SHARED) or "") for host in balancers}
    if len(set(values.values())) > 1:
        found = ", ".join(f"{value or 'nothing'} for {host}" for host, value in values.items())
        expected = "one address for all balancers, in group_vars/balancers.yml"
        yield balancers[0], Problem(where, found, expected, example)
        return
    for host, value in values.items():
        if not value:
            continue
        own = ipaddress.ip_address(address_of(hostvars[host], host, OWN))
        try:
            shared = ipaddress.IPv4Interface(value)
        except ValueError:
            yield host, Problem(where, f"'{value}'", "an IPv4 address with the prefix length of its network", example)
            continue
        used = shared.ip in (shared.network.network_address, shared.network.broadcast_address)
        if own not in shared.network:
            expected = f"an address in the network of this host, whose address is {own}; or set {OWN}"
            yield host, Problem(where, value, expected, example)
        elif used and shared.network.prefixlen < 31:
            yield host, Problem(where, value, f"an address of a host in the network {shared.network}", example)
        elif own == shared.ip:
            yield host, Problem(where, f"{value}, the address of {host} itself", "an address that no host has", example)


def find_statistics_problems(balancers: list[str], hostvars: Hostvars) -> Iterator[tuple[str, Problem]]:
    """An address for the statistics that only one of the balancers can have. HAProxy could not listen on the other."""
    owners: dict[str, str] = {}
    for host in balancers:
        value = str(setting(hostvars[host], STATISTICS))
        if (
            not is_address(value)
            or ipaddress.ip_address(value).is_loopback
            or ipaddress.ip_address(value).is_unspecified
        ):
            continue
        owner = owners.setdefault(value, host)
        if owner != host:
            expected = f"an address of {host}, in its host_vars; {owner} has the same"
            yield host, Problem(f"key {STATISTICS}", value, expected, f"{STATISTICS}: 10.0.0.6")


def find_settings_problems(web: str, hostvars: Hostvars, balancers: list[str]) -> Iterator[tuple[str, Problem]]:
    """Settings of a webserver that do not work with balancers."""
    for name in ("nginx_http_port", "nginx_https_port"):
        port, default = str(setting(hostvars[web], name)), str(setting({}, name))
        if port != default:
            expected = f"{default}: apps behind balancers use the port of the balancers"
            yield web, Problem(f"key {name}", port, expected, f"{name}: {default}")
    for name, entry in machine_settings().items():
        if name.startswith("certificate_") and entry.get("inventory", True):
            for host in balancers:
                if setting(hostvars[host], name) != setting(hostvars[web], name):
                    expected = f"the same for {host}, which obtains the certificates: move it to group_vars/all.yml"
                    yield (
                        web,
                        Problem(f"key {name}", "a value of the webservers alone", expected, example_of(name, entry)),
                    )


def find_app_problems(webs: list[str], hostvars: Hostvars) -> Iterator[tuple[str, Problem]]:
    """Apps that differ between webservers in what the balancers use."""
    first: dict[str, tuple[str, dict[str, Any]]] = {}
    owners: dict[str, str] = {}
    for web in webs:
        for app in map(with_defaults, plain(hostvars[web].get("apps") or [])):
            if app["path"] != "/":
                continue
            other, seen = first.setdefault(app["name"], (web, app))
            for key in keys_with("balancers"):
                if app.get(key) != seen.get(key):
                    expected = f"the same as on {other}: the balancers treat all webservers of an app alike"
                    where = f"app {app['name']}, key {key}"
                    yield web, Problem(where, "another value", expected, f"{key}: one value in group_vars/webservers")
            for domain in app["domains"]:
                owner = owners.setdefault(domain, app["name"])
                if owner != app["name"]:
                    expected = f"each domain in one app only; app {owner} of another webserver has it"
                    yield (
                        web,
                        Problem(f"app {app['name']}, key domains", f"'{domain}'", expected, "domains: [example.org]"),
                    )
