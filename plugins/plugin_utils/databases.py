"""Which host has the database of an app."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def database_host(app: Mapping[str, Any], host: str, groups: Mapping[str, Iterable[str]]) -> str:
    """The host that has the database of an app.

    Args:
        app: an entry of `apps` with its defaults, whose key postgresql is set.
        host: the webserver.
        groups: the groups of the inventory.
    """
    return str(app["postgresql"]["host"] or next(iter(groups.get("databases", [])), host))
