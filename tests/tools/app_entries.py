"""The app of the tests of the inventory, and its problems."""

from __future__ import annotations

from typing import Any

from ansible_collections.blueoctopus.site.plugins.plugin_utils.inventory import check_apps
from ansible_collections.blueoctopus.site.plugins.plugin_utils.validation import Problem

GOOD: dict[str, Any] = {
    "name": "shop",
    "domains": ["shop.example", "www.shop.example"],
    "source": "app",
    "wsgi": "main:app",
}


def problems(*apps: Any) -> list[Problem]:
    """The problems of the apps of one host."""
    return list(check_apps(list(apps)))
