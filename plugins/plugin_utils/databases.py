"""The databases beside the apps: which host has them, who connects, how many connections they need, what can't work."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import (
    app_keys,
    example_of,
    machine_settings,
    plain,
    with_defaults,
)
from ansible_collections.blueoctopus.site.plugins.plugin_utils.validation import Problem

Groups = Mapping[str, Iterable[str]]
Hostvars = Mapping[str, Mapping[str, Any]]
RESERVED = 10  # connections for administrators, backups and PostgreSQL's own reserve
LEAST = 100  # connections; the default of PostgreSQL
STEP = 50  # max_connections is a multiple of it, as each change restarts PostgreSQL


def primary_of(host: str, hostvars: Hostvars) -> str:
    """The host whose databases a host has a copy of: of a standby, its primary; otherwise the host itself."""
    return str(hostvars.get(host, {}).get("postgresql_standby_of") or host)


def primaries(hostvars: Hostvars, groups: Groups) -> list[str]:
    """The hosts of the group databases that are no standby."""
    return [host for host in groups.get("databases", []) if primary_of(host, hostvars) == host]


def standbys_of(host: str, hostvars: Hostvars, groups: Groups) -> list[str]:
    """The standbys of a primary."""
    return [other for other in groups.get("databases", []) if other != host and primary_of(other, hostvars) == host]


def replicas_of(host: str, hostvars: Hostvars, groups: Groups) -> list[str]:
    """The other hosts with the same databases: the primary and its standbys, without this host."""
    primary = primary_of(host, hostvars)
    return [other for other in (primary, *standbys_of(primary, hostvars, groups)) if other != host]


def database_host(app: Mapping[str, Any], host: str, hostvars: Hostvars, groups: Groups) -> str:
    """The host that has the database of an app: the primary, if it has standbys.

    Args:
        app: an entry of `apps` with its defaults, whose key postgresql is set.
        host: the webserver.
        hostvars: the variables of all hosts.
        groups: the groups of the inventory.
    """
    return str(app["postgresql"]["host"] or next(iter(primaries(hostvars, groups)), host))


def uses(hostvars: Hostvars, groups: Groups, host: str = "") -> Iterator[tuple[str, dict[str, Any], str]]:
    """Each app with a database: the webserver, the app with its defaults, and the host that has the database.

    Args:
        hostvars: the variables of all hosts.
        groups: the groups of the inventory.
        host: only what this host can have: a host outside of the group databases has those of its own apps alone.
    """
    webs: Iterable[str] = groups.get("webservers", [])
    if host and host not in groups.get("databases", []):
        webs = {host}.intersection(webs)
    for web in webs:
        for app in map(with_defaults, plain(hostvars[web].get("apps", []))):
            if app["postgresql"]:
                yield web, app, database_host(app, web, hostvars, groups)


def client_addresses(variables: Mapping[str, Any], host: str) -> list[str]:
    """The addresses from which a webserver connects to database hosts."""
    return [*map(str, variables.get("postgresql_client_addresses") or [variables.get("ansible_host", host)])]


def connections(host: str, hostvars: Hostvars, groups: Groups, cores: Mapping[str, int]) -> int:
    """The connections that the apps may open to a host at a time: one for each thread and each process.

    The app that is being deployed counts twice, as its previous release still runs.

    Args:
        host: name of the host.
        hostvars: the variables of all hosts.
        groups: the groups of the inventory.
        cores: the number of processor cores of the webservers that this run has reached, by their names.
    """
    host, most = primary_of(host, hostvars), max(cores.values(), default=1)
    per_app: dict[str, int] = {}
    for web, app, server in uses(hostvars, groups, host):
        if server == host:
            workers = app.get("workers") or 2 * cores.get(web, most) + 1
            beside = sum(process["count"] for process in app["processes"]) + len(app["timers"])
            per_app[app["name"]] = per_app.get(app["name"], 0) + workers * app["threads"] + beside
    return sum(per_app.values()) + max(per_app.values(), default=0) + RESERVED


def knows_connections(host: str, hostvars: Hostvars, groups: Groups, cores: Mapping[str, int]) -> bool:
    """Whether `connections` is exact: a run with --limit does not know the cores of webservers that it leaves out.

    A standby never lowers its number, as it must accept as many as its primary did.
    """
    return primary_of(host, hostvars) == host and all(
        app.get("workers") or web in cores for web, app, server in uses(hostvars, groups, host) if server == host
    )


def max_connections(needed: int) -> int:
    """The value of max_connections for a number of connections."""
    return max(LEAST, -(-needed // STEP) * STEP)


# --- what can't work ------------------------------------------------------------------------------------------------


def find_database_problems(hosts: Iterable[str], hostvars: Hostvars, groups: Groups) -> Iterator[tuple[str, Problem]]:
    """Find what can't work in an inventory whose keys are valid, one by one: the host of each problem, and the problem.

    Args:
        hosts: the hosts of this run.
        hostvars: the variables of all hosts.
        groups: the groups of the inventory.
    """
    known, chosen = primaries(hostvars, groups), list(hosts)
    yield from find_standby_problems(hostvars, groups, chosen)
    webs: dict[str, list[str]] = {}
    for web in groups.get("webservers", []):
        for app in map(with_defaults, plain(hostvars[web].get("apps", []))):
            yield from ((web, problem) for problem in find_variables_set_twice(app))
    for web, app, server in uses(hostvars, groups):
        where = f"app {app['name']}, key postgresql"
        wanted = app["postgresql"]["host"]
        if wanted and wanted != web and wanted not in known:
            expected = f"the host itself, or a host in the group databases: {', '.join(known) or 'it has none'}"
            yield web, Problem(where, f"host: {wanted}", expected, f"postgresql: {{host: {(known or [web])[0]}}}")
        elif not wanted and len(known) > 1:
            expected = f"host: one of {', '.join(known)}, as the group databases has several hosts"
            yield web, Problem(where, "no host", expected, f"postgresql: {{host: {known[0]}}}")
        elif server == web:
            webs.setdefault(app["name"], []).append(web)
        elif web in chosen:
            if not app["network"]:
                expected = f"true, as its database is on {server}"
                yield web, Problem(f"app {app['name']}, key network", "False", expected, "network: true")
            yield from find_network_problems(web, hostvars[web], server, chosen, app["name"])
        if server != web and hostvars[web].get("backup_targets") and not hostvars.get(server, {}).get("backup_targets"):
            shown = f"set for {web}, but not for {server}, which has the database of {app['name']}"
            expected = "the same on both, in group_vars/all.yml: each host backs up what it has"
            example = example_of("backup_targets", machine_settings()["backup_targets"])
            yield web, Problem("key backup_targets", shown, expected, example)
    for name, found in webs.items():
        if len(found) > 1:
            expected = "one database for all of them, on a host in the group databases"
            shown = f"the app on {len(found)} webservers, each with a database of its own"
            for web in found:
                yield web, Problem(f"app {name}, key postgresql", shown, expected, "databases: {hosts: {db1: {}}}")


def find_standby_problems(hostvars: Hostvars, groups: Groups, chosen: list[str]) -> Iterator[tuple[str, Problem]]:
    """Find what can't work with the standbys of the inventory."""
    for host in groups.get("databases", []):
        primary, webs = primary_of(host, hostvars), list(groups.get("webservers", []))
        others = [other for other in primaries(hostvars, groups) if other != host]
        if primary != host and primary not in others:
            shown = f"another host of the group databases, which is no standby: {', '.join(others) or 'there is none'}"
            example = f"postgresql_standby_of: {(others or ['db1'])[0]}"
            yield host, Problem("key postgresql_standby_of", primary, shown, example)
        elif primary != host and host in chosen and primary not in chosen:
            found = f"a run without {primary}, of which {host} is a standby"
            yield host, Problem("option --limit", found, f"a run with {primary}", f"--limit '{host},{primary}'")
        elif primary != host:
            for one in {host, primary}.intersection(webs):
                expected = (
                    "no host of the group webservers: the apps of a database host with a standby are on other hosts"
                )
                yield host, Problem("key postgresql_standby_of", f"{one} is in webservers", expected, "web1")
            yield from find_addresses_without_number(host, hostvars[host], primary)


def find_variables_set_twice(app: Mapping[str, Any]) -> Iterator[Problem]:
    """A variable of the environment that the app and the project both set."""
    for key, variable in (("postgresql", "DATABASE_URL"), ("redis", "REDIS_URL")):
        for place in ("environment", "secrets"):
            if app[key] and variable in app[place]:
                expected = f"no {variable}, which the key {key} sets; or no key {key}"
                example = example_of(key, app_keys()[key])
                yield Problem(f"app {app['name']}, key {place}", f"{variable}, beside the key {key}", expected, example)


def find_network_problems(
    web: str, variables: Mapping[str, Any], server: str, chosen: list[str], app: str
) -> Iterator[tuple[str, Problem]]:
    """What prevents a webserver from using a database on another host."""
    if server not in chosen:
        found = f"a run without {server}, which has the database of {app}"
        yield web, Problem("option --limit", found, f"a run with {server}", f"--limit '{web},{server}'")
    yield from find_addresses_without_number(web, variables, server)


def find_addresses_without_number(web: str, variables: Mapping[str, Any], server: str) -> Iterator[tuple[str, Problem]]:
    """The addresses of a host that connects to a database host, if its firewall can't use them."""
    for address in client_addresses(variables, web):
        try:
            ipaddress.ip_network(address, strict=False)
        except ValueError:
            name = "postgresql_client_addresses"
            expected = f"the IP addresses from which {web} connects to {server}, for its firewall"
            example = example_of(name, machine_settings()[name])
            yield web, Problem(f"key {name}", f"nothing, and ansible_host is the name {address}", expected, example)
