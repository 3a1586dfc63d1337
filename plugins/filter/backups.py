"""Convert entries of `apps` and `backup_targets` for the role backup."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.blueoctopus.site.plugins.module_utils.app_redis import DATA, SOCKETS
from ansible_collections.blueoctopus.site.plugins.plugin_utils.databases import database_host, primary_of
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import hosts_in, with_defaults

STORE = "backups-store"  # the account on hosts that keep backups
Entry = Mapping[str, Any]


def backup_apps(host: str, hostvars: Mapping[str, Entry], groups: Mapping[str, Iterable[str]]) -> list[dict[str, Any]]:
    """The apps whose data folder or database a host has, in the order of their names.

    The data of Redis is on the host with the data folder. An instance without persistence has none to save.

    Args:
        host: name of the host.
        hostvars: the variables of all hosts.
        groups: the groups of the inventory.
    """
    found: dict[str, dict[str, Any]] = {}
    for web in groups.get("webservers", []):
        for app in map(with_defaults, hostvars[web].get("apps") or []):
            has_database = bool(app["postgresql"]) and host == database_host(app, web, hostvars, groups)
            if web == host or has_database:
                empty = {"name": app["name"], "data": False, "database": False, "redis": ""}
                entry = found.setdefault(app["name"], empty)
                entry["data"] |= web == host
                if web == host and app["redis"] and app["redis"]["persistence"] != "none":
                    entry["redis"] = app["redis"]["persistence"]
                    entry["redis_folder"] = f"{DATA}/{app['name']}"
                    entry["redis_socket"] = f"{SOCKETS}/{app['name']}/redis.sock"
                entry["database"] |= has_database
    return [found[name] for name in sorted(found)]


def backup_repositories(
    targets: Iterable[Entry], host: str, hosts: Mapping[str, Entry], environment: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The targets as the program `backup` needs them.

    Args:
        targets: the value of backup_targets.
        host: name of the host, which has a folder of its own in each target.
        hosts: address, port and host_key of the hosts of the group backups.
        environment: variables for restic.
    """
    found = []
    for target in targets:
        entry: dict[str, Any] = {"name": target["name"], "environment": dict(environment)}
        if target.get("host"):
            server = hosts[target["host"]]
            entry |= {"repository": f"rclone:{host}", "ssh": f"{STORE}@{server['address']}", "port": server["port"]}
            entry |= {"pinned": True, "append_only": True}
        else:
            entry |= {"repository": f"{target['repository'].rstrip('/')}/{host}"}
            entry |= {"append_only": bool(target.get("append_only", False))}
            if target["repository"].startswith("sftp://"):
                login = urlsplit(target["repository"])
                entry |= {"ssh": f"{login.username}@{login.hostname}", "port": login.port or 22}
                entry |= {"pinned": bool(target.get("host_key"))}
        found.append(entry)
    return found


def backup_known_hosts(targets: Iterable[Entry], hosts: Mapping[str, Entry]) -> str:
    """The host keys of the targets, as a file known_hosts."""
    lines = []
    for target in targets:
        if target.get("host"):
            server = hosts[target["host"]]
            lines.append(f"{known_name(server['address'], int(server['port']))} {server['host_key']}\n")
        elif target.get("host_key"):
            login = urlsplit(target["repository"])
            lines.append(f"{known_name(str(login.hostname), login.port or 22)} {target['host_key']}\n")
    return "".join(lines)


def known_name(address: str, port: int) -> str:
    """A host in known_hosts."""
    return address if port == 22 else f"[{address}]:{port}"


def hosts_to_back_up(hostvars: Mapping[str, Entry], groups: Mapping[str, Iterable[str]]) -> list[str]:
    """The hosts whose apps are backed up. A standby has what its primary has."""
    hosts = [host for host in hosts_in(groups, "webservers", "databases") if primary_of(host, hostvars) == host]
    return [host for host in hosts if host in hostvars and hostvars[host].get("backup_targets")]


def archives_wal(variables: Entry) -> bool:
    """Whether a host with databases archives their WAL.

    Args:
        variables: the variables of the host.
    """
    return bool(variables.get("backup_targets") and variables.get("backup_point_in_time"))


def backup_clients_of(keys: Mapping[str, str], hostvars: Mapping[str, Entry], server: str) -> list[dict[str, str]]:
    """Name and SSH key of the hosts that have a host of the group backups as a target.

    Args:
        keys: the public SSH keys of the hosts whose backups this run has set up, by their names.
        hostvars: the variables of all hosts.
        server: the host of the group backups.
    """
    return [
        {"name": host, "key": keys[host]}
        for host in sorted(keys)
        if any(target.get("host") == server for target in hostvars[host]["backup_targets"])
    ]


def backup_addresses(hostvars: Mapping[str, Entry], groups: Mapping[str, Iterable[str]]) -> list[str]:
    """The addresses of the hosts that may have backups, as far as the inventory has them as numbers."""
    hosts = hosts_in(groups, "webservers", "databases")
    addresses = {str(hostvars[host].get("ansible_host", host)) for host in hosts}
    return sorted(address for address in addresses if is_address(address))


def restore_lines(plan: Entry, host: str, options: str) -> list[str]:
    """The report of a restore.

    Args:
        plan: the result of the module backup_restore.
        host: name of the host.
        options: the options of ansible-playbook for the inventory.
    """
    app, facts, stamp = plan["app"], plan["facts"], plan["stamp"]
    found = [f"{facts[key]} {key}" for key in ("files", "tables", "rows", "keys") if facts.get(key)]
    name = plan["as_name"] or app
    lines = [f"{host}: restored {name} from the backup of {plan['backup']}: {', '.join(found) or 'no data'}."]
    lines += [facts["note"]] if "note" in facts else []
    if plan["as_name"]:
        places = [f"/srv/{name}/data"] if plan["data"] else []
        places += [f"/srv/{name}/redis"] if plan.get("redis") else []
        places += [f"database {name}"] if plan["database"] else []
        return [*lines, f"The copy: {', '.join(places)}. To remove it on the host: sudo backup remove-copy {name}"]
    places = [f"/srv/{app}/data.before-{stamp}"] if plan["data"] else []
    places += [f"/var/lib/app-redis/{app}.before-{stamp}"] if plan.get("redis") else []
    places += [f"database {app}.before-{stamp}"] if plan["database"] else []
    lines.append(f"The former data is kept in {', '.join(places)}.")
    return [*lines, f"To delete it: ansible-playbook playbooks/restore.yml {options} -e app={app} -e former=delete"]


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {
            "archives_wal": archives_wal,
            "backup_addresses": backup_addresses,
            "backup_apps": backup_apps,
            "backup_clients_of": backup_clients_of,
            "hosts_to_back_up": hosts_to_back_up,
            "backup_known_hosts": backup_known_hosts,
            "backup_repositories": backup_repositories,
            "restore_lines": restore_lines,
        }
