"""Read the inventory and the results of earlier tasks for several hosts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import hosts_in, setting, settings_for


def results_of(
    hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], name: str, key: str = ""
) -> dict[str, Any]:
    """What earlier tasks of this run have registered or stored as a fact, by host.

    Args:
        hostvars: the variables of all hosts.
        hosts: the hosts to look at. Those without the result, which this run has not reached, are left out.
        name: the variable.
        key: return this key of each result; hosts whose result lacks it are left out.
    """
    found = {}
    for host in hosts:
        variables = hostvars[host]
        if name in variables and (not key or key in variables[name]):
            found[host] = variables[name][key] if key else variables[name]
    return found


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"hosts_in": hosts_in, "results_of": results_of, "setting": setting, "settings_for": settings_for}
