"""The roles' arguments: one truth in defaults, specs, READMEs and the keys of `apps`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.blueoctopus.site.plugins.action.check_inventory import KEYS
from ansible_collections.blueoctopus.site.plugins.filter.apps import with_role_defaults

ROLES = sorted((Path(__file__).resolve().parent.parent / "roles").iterdir())


def entry_points(role: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The arguments of a role, for each of its files of tasks that others may start from."""
    spec = yaml.safe_load((role / "meta/argument_specs.yml").read_text())
    return {name: dict(point["options"]) for name, point in spec["argument_specs"].items()}


def options(role: Path, *points: str) -> dict[str, dict[str, Any]]:
    """The arguments of some entry points of a role, or of all; the description is that of the first."""
    found: dict[str, dict[str, Any]] = {}
    for name, described in entry_points(role).items():
        found = (described | found) if name in points or not points else found
    return found


def defaults(role: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((role / "defaults/main.yml").read_text()))


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_specs_tell_the_true_defaults(role: Path) -> None:
    literal = {name: value for name, value in defaults(role).items() if "{{" not in str(value)}
    for described in entry_points(role).values():
        told = {name: spec["default"] for name, spec in described.items() if "default" in spec}
        assert told == {name: value for name, value in literal.items() if name in described}
    optional = {name for name, spec in options(role).items() if not spec.get("required")}
    assert optional == set(defaults(role))


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_entry_point_of_a_spec_has_its_tasks(role: Path) -> None:
    for name in entry_points(role):
        assert (role / f"tasks/{name}.yml").is_file(), name


def test_an_argument_of_two_entry_points_is_the_same_in_both() -> None:
    for role in ROLES:
        for described in entry_points(role).values():
            for name, spec in described.items():
                told = {key: value for key, value in options(role)[name].items() if key != "description"}
                assert {key: value for key, value in spec.items() if key != "description"} == told, name


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_arguments_carry_the_name_of_their_role(role: Path) -> None:
    assert all(name.startswith(f"{role.name}_") for name in options(role))


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_the_readme_has_the_table_of_the_spec(role: Path) -> None:
    text = (role / "README.md").read_text()
    for name, spec in options(role, "main").items():
        default = "required" if spec.get("required") else f"`{spec['default']}`" if "default" in spec else "-"
        assert f"| `{name}` | {spec['type']} | {default} | {spec['description']} |" in text


def test_the_keys_of_apps_are_arguments_of_the_role_app() -> None:
    arguments = options(next(role for role in ROLES if role.name == "app"), "main")
    types = {str: ("str", "path"), int: ("int",), list: ("list",), dict: ("dict",), bool: ("bool",)}
    for name, key in KEYS.items():
        if name.startswith("tls_"):  # those are for the role certificate
            continue
        spec = arguments[f"app_{name}"]
        assert spec["type"] in types[key.type], name
        assert bool(spec.get("required")) == key.required, name


def test_what_an_app_leaves_out_comes_from_the_role() -> None:
    (app,) = with_role_defaults([{"name": "shop", "workers": 7}], "app")
    assert (app["name"], app["workers"], app["health_timeout"]) == ("shop", 7, 30)
