"""Convert entries of `apps` for the databases beside the apps."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.blueoctopus.site.plugins.module_utils.app_redis import SOCKETS
from ansible_collections.blueoctopus.site.plugins.plugin_utils.databases import (
    Groups,
    Hostvars,
    client_addresses,
    connections,
    database_host,
    knows_connections,
    max_connections,
    primary_of,
    replicas_of,
    standbys_of,
    uses,
)
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import hosts_in, plain, with_defaults

# The folder on webservers with the root certificates of database hosts.
AUTHORITIES = "/etc/ssl/databases"
# With a standby: when the primary is lost, the kernel would wait minutes for its response, and so would the app.
# A new connection waits 3 seconds, one that sends 10 seconds, one that waits for a response 20 seconds.
PATIENCE = "connect_timeout=3&tcp_user_timeout=10000&keepalives_idle=10&keepalives_interval=5&keepalives_count=2"


def databases_of(host: str, hostvars: Hostvars, groups: Groups) -> list[dict[str, Any]]:
    """The databases that a host has, for the role postgresql.

    Args:
        host: name of the host; a standby has those of its primary.
        hostvars: the variables of all hosts.
        groups: the groups of the inventory.
    """
    host = primary_of(host, hostvars)
    found: dict[str, dict[str, Any]] = {}
    for web, app, server in uses(hostvars, groups, host):
        if server == host:
            database = found.setdefault(app["name"], {"name": app["name"], "extensions": [], "password": False})
            new = [name for name in app["postgresql"]["extensions"] if name not in database["extensions"]]
            database["extensions"] += new
            database["password"] |= web != host
    return [found[name] for name in sorted(found)]


def database_clients(host: str, hostvars: Hostvars, groups: Groups) -> list[str]:
    """The addresses of the other hosts whose apps have a database on a host, or on the primary of a standby."""
    host = primary_of(host, hostvars)
    webs = {web for web, _, server in uses(hostvars, groups, host) if server == host != web}
    return sorted({address for web in webs for address in client_addresses(hostvars[web], web)})


def replica_addresses(host: str, hostvars: Hostvars, groups: Groups) -> list[str]:
    """The addresses of the other hosts with the same databases: each may become a standby of this host."""
    replicas = replicas_of(host, hostvars, groups)
    return sorted({address for other in replicas for address in client_addresses(hostvars[other], other)})


def slot_of(host: str) -> str:
    """The name of a standby in its primary: of its replication slot, and in pg_stat_replication."""
    return f"standby_{re.sub('[^a-z0-9]', '_', host.lower())}"


def all_standbys(hostvars: Hostvars, groups: Groups) -> list[str]:
    """The standbys of the inventory."""
    return [host for host in groups.get("databases", []) if primary_of(host, hostvars) != host]


def hosts_without_standbys(hostvars: Hostvars, groups: Groups, *names: str) -> list[str]:
    """The hosts of some groups, without standbys, which a run does not change and which may be off."""
    standbys = all_standbys(hostvars, groups) if hostvars else []  # it has none in a syntax check
    return [host for host in hosts_in(groups, *names) if host not in standbys]


def trusted_hosts(host: str, hostvars: Hostvars, groups: Groups) -> dict[str, list[str]]:
    """The primaries that a webserver uses, and their standbys, each with the hosts that its apps trust: all of these.

    A standby too, so that apps can be deployed at once after its promotion.
    """
    servers = database_servers(host, hostvars, groups)
    together = [[server, *standbys_of(server, hostvars, groups)] for server in servers]
    return {one: hosts for hosts in together if len(hosts) > 1 for one in hosts}


def root_certificates(roots: Mapping[str, str], host: str, hostvars: Hostvars, groups: Groups) -> dict[str, str]:
    """The root certificates with which the apps of a host verify their databases.

    Args:
        roots: the root certificates of the hosts that this run has configured, by their names.
        host: the webserver.
        hostvars: the variables of all hosts.
        groups: the groups of the inventory.

    Returns:
        The certificates by the names of the hosts; those of a primary with standbys, and of these, are in `hosts/`.
    """
    trusted = trusted_hosts(host, hostvars, groups)
    alone = [server for server in database_servers(host, hostvars, groups) if server not in trusted]
    files = {server: server for server in alone}
    files |= {f"hosts/{one}": one for hosts in trusted.values() for one in hosts}
    return {file: roots[one] for file, one in files.items() if one in roots}


def database_servers(host: str, hostvars: Hostvars, groups: Groups) -> list[str]:
    """The other hosts that have databases of the apps of a host."""
    own = [app for app in map(with_defaults, plain(hostvars[host]["apps"])) if app["postgresql"]]
    return sorted({database_host(app, host, hostvars, groups) for app in own} - {host})


def apps_with_database_on(host: str, hostvars: Hostvars, groups: Groups, servers: Iterable[str]) -> list[str]:
    """The apps of a webserver that have their database on one of some hosts.

    Args:
        host: the webserver; a host without apps has none.
        hostvars: the variables of all hosts.
        groups: the groups of the inventory.
        servers: the hosts with databases.
    """
    if host not in groups.get("webservers", []):
        return []
    own = [app for app in map(with_defaults, plain(hostvars[host]["apps"])) if app["postgresql"]]
    return [app["name"] for app in own if database_host(app, host, hostvars, groups) in servers]


def server_address(variables: Mapping[str, Any], host: str) -> str:
    """The address at which the webservers reach a database host."""
    return str(variables.get("postgresql_address") or variables.get("ansible_host", host))


def with_databases(
    app: Mapping[str, Any], host: str, hostvars: Hostvars, groups: Groups, passwords: Hostvars
) -> dict[str, Any]:
    """An entry of `apps` with the URLs of its databases in its environment.

    Args:
        app: an entry of `apps` with its defaults.
        host: the webserver.
        hostvars: the variables of all hosts.
        groups: the groups of the inventory.
        passwords: of the database hosts that this run has reached, by their names, the file with the passwords: the
            result of the module slurp.

    Raises:
        AnsibleFilterError: when the database host was not part of this run.
    """
    name, environment, secrets = app["name"], dict(app["environment"]), dict(app["secrets"])
    server = database_host(app, host, hostvars, groups) if app["postgresql"] else ""
    if server == host:
        environment["DATABASE_URL"] = f"postgresql://{name}@/{name}?host=/run/postgresql"
    elif server:
        if server not in passwords:
            raise AnsibleFilterError(f"{name}: this run did not reach {server}, which has its database.")
        hosts = [server, *standbys_of(server, hostvars, groups)]
        addresses = [server_address(hostvars[one], one) for one in hosts]
        content = base64.b64decode(passwords[server].get("content", "")) or b"{}"
        password = json.loads(content).get(name, "unknown")  # in check mode, before the first run
        options = f"sslmode=verify-full&sslrootcert={AUTHORITIES}/{server}.pem"
        if len(hosts) > 1:
            # libpq connects to the one that is no standby, also after a promotion.
            options = f"host={','.join(addresses)}&target_session_attrs=read-write&{PATIENCE}&{options}"
            at = ""
        else:
            at = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
        secrets["DATABASE_URL"] = f"postgresql://{name}:{password}@{at}/{name}?{options}"
    if app["redis"]:
        environment["REDIS_URL"] = f"unix://{SOCKETS}/{name}/redis.sock"
    return {**app, "environment": environment, "secrets": secrets}


def redis_of(apps: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The instances that the apps of a host need, for the role redis."""
    complete = map(with_defaults, apps)
    return [{"name": app["name"], **app["redis"]} for app in complete if app["redis"]]


def hosts_with_databases(hostvars: Hostvars, groups: Groups) -> list[str]:
    """The hosts that have databases, or instances of Redis for their apps; without standbys."""
    if not hostvars:
        return []
    hosts = hosts_in(groups, "webservers", "databases")
    webs = [*groups.get("webservers", [])]
    return [
        host
        for host in hosts
        if (primary_of(host, hostvars) == host and databases_of(host, hostvars, groups))
        or (host in webs and redis_of(hostvars[host].get("apps", [])))
    ]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {
            "all_standbys": all_standbys,
            "apps_with_database_on": apps_with_database_on,
            "database_clients": database_clients,
            "database_connections": connections,
            "database_connections_known": knows_connections,
            "hosts_with_databases": hosts_with_databases,
            "hosts_without_standbys": hosts_without_standbys,
            "database_servers": database_servers,
            "databases_of": databases_of,
            "max_connections": max_connections,
            "redis_of": redis_of,
            "replica_addresses": replica_addresses,
            "root_certificates": root_certificates,
            "server_address": server_address,
            "slot_of": slot_of,
            "standbys_of": standbys_of,
            "trusted_hosts": trusted_hosts,
            "with_databases": with_databases,
        }
