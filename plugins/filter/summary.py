"""What a deploy or a rollback says at its end."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import with_defaults

State = Mapping[str, Any]


def release_result(states: Mapping[str, State], release: str) -> dict[str, Any]:
    """What a deploy or a rollback changes, as the role's result for one app.

    Args:
        states: each host's state before, by its name: the results of the module release_lock.
        release: the release that becomes live.

    Returns:
        The `release`, and for each of the `hosts` the release `before`, whether it was `settled`, and whether the
        release already `exists` there.
    """
    hosts = {
        host: {"before": state["live"], "settled": state["settled"], "exists": release in state["releases"]}
        for host, state in states.items()
    }
    return {"release": release, "hosts": hosts}


def change(release: str, host: Mapping[str, Any], is_check: bool) -> str:
    """What has changed on a host, or would change, in a few words."""
    before = host["before"]
    if before == release:
        return f"{release}, nothing to do" if host["settled"] else f"{release}, started again"
    after = release if host["exists"] or not is_check else "a new release"
    return f"{before} → {after}" if before else f"{after}, the first one"


def address(variables: Mapping[str, Any], name: str) -> str:
    """The address of an app on a host with these variables; empty when the inventory does not contain it."""
    entry = next((entry for entry in variables.get("apps", []) if entry.get("name") == name), None)
    # A rollback does not validate these keys.
    domains = (entry or {}).get("domains")
    names = [name for name in domains if isinstance(name, str)] if isinstance(domains, list) else []
    domain = next((name for name in names if not name.startswith("*")), "")
    if not entry or not domain:
        return ""
    is_plain = with_defaults({"name": name, "tls": entry["tls"]} if "tls" in entry else {"name": name})["tls"] == "none"
    usual, key = (80, "nginx_http_port") if is_plain else (443, "nginx_https_port")
    port = variables.get(key, usual)
    host = f"[{domain}]" if ":" in domain else domain
    return f"{'http' if is_plain else 'https'}://{host}{'' if int(port) == usual else f':{port}'}/"


def inventory_options(sources: Iterable[str], project: str) -> str:
    """The options of ansible-playbook for these inventories, for a shell in the project's root."""
    root, options = Path(project).resolve(), []
    for source in sources:
        path = Path(source)
        is_inside = path.is_absolute() and path.is_relative_to(root)
        options.append(f"-i {shlex.quote(str(path.relative_to(root)) if is_inside else source)}")
    return " ".join(options)


def release_summary(
    hostvars: Mapping[str, Mapping[str, Any]],
    hosts: list[str],
    sources: Iterable[str],
    project: str,
    is_check: bool = False,
) -> str:
    """The summary of a deploy or a rollback: for each app what has changed, its address and its log.

    Args:
        hostvars: the variables of all hosts, with the role's `app_results`.
        hosts: the hosts of the play.
        sources: the inventories.
        project: the root of this project.
        is_check: whether nothing was changed, only checked.
    """
    results: dict[str, Mapping[str, Any]] = {}
    for host in hosts:
        results |= hostvars[host].get("app_results", {})
    blocks = []
    for name, result in results.items():
        changes: dict[str, list[str]] = {}
        for host, state in result["hosts"].items():
            changes.setdefault(change(result["release"], state, is_check), []).append(host)
        is_everywhere = len(changes) == 1 and set(result["hosts"]) >= set(hosts)
        values = [text if is_everywhere else f"{', '.join(group)}: {text}" for text, group in changes.items()]
        rows = [("would be" if is_check else "release", value) for value in values]
        if not is_check:
            urls = dict.fromkeys(address(hostvars[host], name) for host in result["hosts"])
            rows += [("open", url) for url in urls if url]
            options = inventory_options(sources, project)
            rows.append(("log", f"ansible-playbook playbooks/logs.yml {options} -e app={name}"))
        blocks.append("\n".join([name, *table(rows)]))
    return "\n\n".join(blocks)


def table(rows: list[tuple[str, str]]) -> list[str]:
    """Lines of a table; a name that repeats that of the row above is left out."""
    return [
        f"  {'' if n and rows[n - 1][0] == name else name:<9} {value}".rstrip() for n, (name, value) in enumerate(rows)
    ]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"release_result": release_result, "release_summary": release_summary}
