"""Convert entries of `apps` for the databases beside the apps."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible_collections.blueoctopus.site.plugins.plugin_utils.databases import database_host
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import with_defaults

Groups = Mapping[str, Iterable[str]]
Hostvars = Mapping[str, Mapping[str, Any]]
# The folder on webservers with the root certificates of database hosts.
CERTIFICATES = "/etc/ssl/databases"


def uses(hostvars: Hostvars, groups: Groups) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Each app with a database: the webserver, the app with its defaults, and the host that has the database."""
    for web in groups.get("webservers", []):
        for app in map(with_defaults, hostvars[web].get("apps", [])):
            if app["postgresql"]:
                yield web, app, database_host(app, web, groups)


def databases_of(host: str, hostvars: Hostvars, groups: Groups) -> list[dict[str, Any]]:
    """The databases that a host has, for the role postgresql.

    Args:
        host: name of the host.
        hostvars: the variables of all hosts.
        groups: the groups of the inventory.
    """
    found: dict[str, dict[str, Any]] = {}
    for web, app, server in uses(hostvars, groups):
        if server == host:
            database = found.setdefault(app["name"], {"name": app["name"], "extensions": [], "password": False})
            new = [name for name in app["postgresql"]["extensions"] if name not in database["extensions"]]
            database["extensions"] += new
            database["password"] |= web != host
    return [found[name] for name in sorted(found)]


def database_clients(host: str, hostvars: Hostvars, groups: Groups) -> list[str]:
    """The addresses of the other hosts whose apps have a database on a host."""
    webs = {web for web, _, server in uses(hostvars, groups) if server == host != web}
    return sorted({address for web in webs for address in client_addresses(hostvars[web], web)})


def client_addresses(variables: Mapping[str, Any], host: str) -> list[str]:
    """The addresses from which a webserver connects to database hosts."""
    return [*map(str, variables.get("postgresql_client_addresses") or [variables.get("ansible_host", host)])]


def database_servers(host: str, hostvars: Hostvars, groups: Groups) -> list[str]:
    """The other hosts that have databases of the apps of a host."""
    return sorted({server for web, _, server in uses(hostvars, groups) if web == host != server})


def server_address(variables: Mapping[str, Any], host: str) -> str:
    """The address at which the webservers reach a database host."""
    return str(variables.get("postgresql_address") or variables.get("ansible_host", host))


def with_databases(app: Mapping[str, Any], host: str, hostvars: Hostvars, groups: Groups) -> dict[str, Any]:
    """An entry of `apps` with the URLs of its databases in its environment.

    Args:
        app: an entry of `apps` with its defaults.
        host: the webserver.
        hostvars: the variables of all hosts. Those of a database host contain `database_passwords`, its file.
        groups: the groups of the inventory.
    """
    name, environment, secrets = app["name"], dict(app["environment"]), dict(app["secrets"])
    server = database_host(app, host, groups) if app["postgresql"] else ""
    if server == host:
        environment["DATABASE_URL"] = f"postgresql://{name}@/{name}?host=/run/postgresql"
    elif server:
        address = server_address(hostvars[server], server)
        at = f"[{address}]" if ":" in address else address
        content = base64.b64decode(hostvars[server]["database_passwords"].get("content", "")) or b"{}"
        password = json.loads(content).get(name, "unknown")  # in check mode, before the first run
        options = f"sslmode=verify-full&sslrootcert={CERTIFICATES}/{server}.pem"
        secrets["DATABASE_URL"] = f"postgresql://{name}:{password}@{at}/{name}?{options}"
    return {**app, "environment": environment, "secrets": secrets}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {
            "database_clients": database_clients,
            "database_servers": database_servers,
            "databases_of": databases_of,
            "server_address": server_address,
            "with_databases": with_databases,
        }
