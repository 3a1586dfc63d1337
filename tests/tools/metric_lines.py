"""The metrics of hosts that differ from a healthy one."""

from __future__ import annotations

from typing import Any

from ansible_collections.blueoctopus.site.plugins.module_utils.metrics import app_lines, certificate_lines, host_lines
from status_examples import host


def lines_of(
    *apps: dict[str, Any], events: list[tuple[str, dict[str, Any]]] | None = None, **changes: Any
) -> list[str]:
    """The metrics of a host that differs from a healthy one."""
    found = host(*apps, **changes)
    return [
        *app_lines(found["apps"], events or []),
        *host_lines(found),
        *certificate_lines({app["name"]: app["certificate"] for app in found["apps"]}),
    ]
