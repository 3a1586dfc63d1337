"""The settings of the inventory: the keys of `apps`, the arguments of the roles, and what the playbooks use themselves.

They are described in roles/*/meta/settings.yml and meta/settings.yml.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.common.yaml import yaml_load

PROJECT = Path(__file__).resolve().parents[2]
GROUPS = ("webservers", "databases", "backups", "balancers", "monitors")  # of the inventory
# Keywords in settings.yml that do not belong to JSON Schema.
EXTRA_KEYWORDS = {
    "required",
    "example",
    "expected",
    "secret",
    "inventory",
    "release",
    "rollback",
    "balancers",
    "properties_of",
}
TYPE_NAMES = {
    "string": "text",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a set of keys and values",
}

Entry = Mapping[str, Any]  # the description of a key or an argument in settings.yml


def hosts_in(groups: Mapping[str, Iterable[str]], *names: str) -> list[str]:
    """The hosts of some groups of the inventory, which may lack these groups; without names, of all groups."""
    return list(dict.fromkeys(host for name in names or GROUPS for host in groups.get(name, [])))


# --- settings.yml ---------------------------------------------------------------------------------------------------


@functools.cache
def role_settings(role: str) -> dict[str, Any]:
    """A role's settings.yml: `entry_points`, `arguments` and, for the role app, the `keys` of an entry in `apps`."""
    # With libyaml, 10 times faster.
    described = dict(yaml_load((PROJECT / "roles" / role / "meta/settings.yml").read_text()))
    for entry in described["arguments"].values():
        for other, keys in entry.get("properties_of", {}).items():
            entry["properties"] = {key: role_settings(other)["arguments"][f"{other}_{key}"] for key in keys}
    return described


def roles() -> list[str]:
    """The names of all roles."""
    return sorted(path.name for path in (PROJECT / "roles").iterdir())


def app_keys() -> dict[str, Entry]:
    """The keys of an entry in `apps`."""
    return dict(role_settings("app")["keys"])


def keys_with(keyword: str, *values: Any) -> list[str]:
    """The keys of `apps` with a keyword in settings.yml, such as `rollback`, and one of these values."""
    return [name for name, entry in app_keys().items() if keyword in entry and (not values or entry[keyword] in values)]


@functools.cache
def playbook_settings() -> dict[str, Entry]:
    """The settings that no role uses: the playbooks pass them on."""
    return dict(yaml_load((PROJECT / "meta/settings.yml").read_text())["arguments"])


@functools.cache
def machine_settings() -> dict[str, Entry]:
    """The settings of the hosts: the arguments of every role except `app`, and those that only the playbooks use."""
    return {
        name: entry for role in roles() if role != "app" for name, entry in role_settings(role)["arguments"].items()
    } | playbook_settings()


def setting(variables: Mapping[str, Any], name: str) -> Any:
    """The value of a setting of a host, with its default, or the defaults of what is omitted in it.

    Args:
        variables: the variables of the host.
        name: a setting that has a default.
    """
    entry = machine_settings()[name]
    return complete(variables.get(name, entry["default"]), entry)


def settings_for(variables: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The value for an argument whose keys are settings of another role, with the defaults of that role."""
    ((role, keys),) = machine_settings()[name]["properties_of"].items()
    return {key: setting(variables, f"{role}_{key}") for key in keys}


def with_defaults(value: Any, name: str = "") -> Any:
    """Add the defaults of omitted keys, also nested ones, to an entry of `apps` or to the value of an argument."""
    return complete(value, machine_settings()[name] if name else {"properties": app_keys()})


def complete(value: Any, entry: Entry) -> Any:
    """A value with the defaults of the keys that are omitted in it."""
    if "properties" in entry.get("items", {}) and isinstance(value, list | tuple):
        return [complete(item, entry["items"]) for item in value]
    if "properties" not in entry or not (value is True or isinstance(value, Mapping)):
        return value
    result = {} if value is True else dict(value)  # true: all its settings have their defaults
    for name, described in entry["properties"].items():
        if name in result or "default" in described:
            result[name] = complete(result.get(name, described.get("default")), described)
    return result


def json_schema(entry: Entry) -> dict[str, Any]:
    """A key or argument as JSON Schema."""
    return {keyword: value for keyword, value in entry.items() if keyword not in EXTRA_KEYWORDS}


def example_of(name: str, entry: Entry) -> str:
    """A line of YAML that sets a key or argument."""
    value = entry.get("example", entry.get("default", (entry.get("enum") or [""])[0]))
    if isinstance(value, bool) and "example" not in entry:
        value = not value
    text = yaml.safe_dump({name: value}, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True)
    return text.strip()[1:-1]


def expected_of(entry: Entry) -> str:
    """A description of the valid values of a key or argument."""
    if "expected" in entry:
        return str(entry["expected"])
    if "enum" in entry:
        return f"one of {', '.join(map(str, entry['enum']))}"
    words = TYPE_NAMES.get(str(entry["type"]), "a value")
    if "maximum" in entry:
        words += f" from {entry['minimum']} to {entry['maximum']}"
    elif entry.get("minimum") is not None:
        words += f", {entry['minimum']} or more"
    return f"{words}: {entry['description'].rstrip('.')}"


def plain(value: Any) -> Any:
    """A value with Python's own types in place of Ansible's, so that it is printed as in the inventory."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool):
        return value
    return int(value) if isinstance(value, int) else float(value) if isinstance(value, float) else str(value)
