"""The settings of the inventory: the keys of `apps` and the arguments of the roles, from roles/*/meta/settings.yml."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.common.yaml import yaml_load

PROJECT = Path(__file__).resolve().parents[2]
# Keywords in settings.yml that do not belong to JSON Schema.
EXTRA_KEYWORDS = {"required", "example", "expected", "secret", "inventory"}
TYPE_NAMES = {
    "string": "text",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a set of keys and values",
}

Entry = Mapping[str, Any]  # the description of a key or an argument in settings.yml


# --- settings.yml ---------------------------------------------------------------------------------------------------


@functools.cache
def role_settings(role: str) -> dict[str, Any]:
    """A role's settings.yml: `entry_points`, `arguments` and, for the role app, the `keys` of an entry in `apps`."""
    return dict(
        yaml_load((PROJECT / "roles" / role / "meta/settings.yml").read_text())
    )  # with libyaml, 10 times faster


def roles() -> list[str]:
    """The names of all roles."""
    return sorted(path.name for path in (PROJECT / "roles").iterdir())


def app_keys() -> dict[str, Entry]:
    """The keys of an entry in `apps`."""
    return dict(role_settings("app")["keys"])


def machine_settings() -> dict[str, Entry]:
    """The settings of the hosts: the arguments of every role except `app`."""
    return {
        name: entry for role in roles() if role != "app" for name, entry in role_settings(role)["arguments"].items()
    }


def with_defaults(app: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of `apps` with the defaults of its omitted keys, including nested keys."""
    return fill_defaults(app, app_keys())


def fill_defaults(value: Mapping[str, Any], properties: Mapping[str, Entry]) -> dict[str, Any]:
    """A set of keys with the defaults of the omitted ones."""
    result = dict(value)
    for name, entry in properties.items():
        if name not in value and "default" not in entry:
            continue
        found = value.get(name, entry.get("default"))
        result[name] = (
            fill_defaults(found, entry["properties"]) if "properties" in entry and isinstance(found, Mapping) else found
        )
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
