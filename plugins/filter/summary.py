"""The report of a deploy or a rollback."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import setting, with_defaults

State = Mapping[str, Any]


def change(release: str, host: Mapping[str, Any], is_check: bool) -> str:
    """What has changed on a host, or would change, in a few words."""
    before = host["before"]
    if before == release:
        return f"{release}, nothing to do" if host["settled"] else f"{release}, started again"
    after = release if host["exists"] or not is_check else "a new release"
    return f"{before} → {after}" if before else f"{after}, the first release"


def address(variables: Mapping[str, Any], name: str) -> str:
    """The address of an app on a host with these variables; empty when the inventory does not contain it."""
    entry = next((entry for entry in variables.get("apps", []) if entry.get("name") == name), None)
    # A rollback does not validate these keys.
    domains = (entry or {}).get("domains")
    names = [name for name in domains if isinstance(name, str)] if isinstance(domains, list) else []
    domain = next((name for name in names if not name.startswith("*")), "")
    if not entry or not domain:
        return ""
    app = with_defaults({key: entry[key] for key in ("tls", "path") if key in entry})
    is_plain = app["tls"] == "none"
    usual, key = (80, "nginx_http_port") if is_plain else (443, "nginx_https_port")
    port = setting(variables, key)
    host = f"[{domain}]" if ":" in domain else domain
    return f"{'http' if is_plain else 'https'}://{host}{'' if int(port) == usual else f':{port}'}{app['path']}"


def inventory_options(sources: Iterable[str], project: str) -> str:
    """The options of ansible-playbook for these inventories, for a shell in the project's root."""
    root, options = Path(project).resolve(), []
    for source in sources:
        path = Path(source)
        is_inside = path.is_absolute() and path.is_relative_to(root)
        options.append(f"-i {shlex.quote(str(path.relative_to(root)) if is_inside else source)}")
    return " ".join(options)


def release_summary(
    results: Mapping[str, Mapping[str, Any]],
    hostvars: Mapping[str, Mapping[str, Any]],
    hosts: list[str],
    sources: Iterable[str],
    project: str,
    is_check: bool = False,
) -> str:
    """The summary of a deploy or a rollback: for each app what has changed, its address and its log.

    Args:
        results: the results of the role app, `app_results.apps`, by host.
        hostvars: the variables of all hosts.
        hosts: the hosts of the play.
        sources: the inventories.
        project: the root of this project.
        is_check: whether nothing was changed, only checked.
    """
    blocks = []
    for name, result in {name: result for apps in results.values() for name, result in apps.items()}.items():
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


def undo_report(
    app: str,
    action: str,
    errors: Mapping[str, State],
    not_undone: Iterable[str],
    lost: Iterable[str],
    is_planned: bool,
    live: str | None,
) -> str:
    """The report of a deploy or a rollback that has failed.

    Args:
        app: name of the app.
        action: deploy or rollback.
        errors: the results of the failed tasks, by host.
        not_undone: the hosts on which the undo has failed.
        lost: the hosts that have become unreachable.
        is_planned: whether a release was chosen; before that, nothing is changed.
        live: the release that is live after the undo, empty for none; None when nothing was undone on this host.
    """
    not_undone, lost = ", ".join(not_undone), ", ".join(lost)
    failed = f" on {', '.join(errors)}" if errors else ""
    undone = " and was undone on every host" if live is not None and not not_undone else ""
    lines = [f"{app}: the {action} failed{failed}{undone}."]
    if not_undone:
        lines.append(f"{not_undone} could not restore the previous release. The host tries again every ten seconds.")
        lines.append("The error is above, and in the journal of the host: journalctl -u 'release-guard-*'")
    if lost and not is_planned:
        lines.append(f"{lost} can't be reached.")
    elif lost:
        lines.append(
            f"{lost} can't be reached. The host restores the previous release within two minutes, unless it had"
        )
        lines.append("already confirmed the new one. The next run brings all hosts to the same release.")
    if not is_planned:
        lines.append("Nothing was changed.")
    elif live is not None:
        lines.append(f"Release {live} is live, as before." if live else "No release is live, as before.")
    lines.append(f"{'Fix the cause, which is in the error above' if errors else 'Check the host'}, and run this again.")
    return "\n".join(lines)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"inventory_options": inventory_options, "release_summary": release_summary, "undo_report": undo_report}
