"""The roles' settings: valid descriptions, generated files, no unused settings, the JSON Schema."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.blueoctopus.site.plugins.modules import release_build
from ansible_collections.blueoctopus.site.plugins.plugin_utils import settings
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import (
    app_keys,
    keys_with,
    playbook_settings,
    role_settings,
    with_defaults,
)
from ansible_collections.blueoctopus.site.plugins.plugin_utils.validation import find_problem

PROJECT = Path(__file__).resolve().parent.parent
ROLES = sorted((PROJECT / "roles").iterdir())
APP = {"name": "shop", "domains": ["shop.example"], "source": "app", "wsgi": "main:app"}


def entries(role: Path) -> dict[str, Any]:
    """All arguments of a role and all keys of `apps`, by their names."""
    described = role_settings(role.name)
    return {**described["arguments"], **described.get("keys", {})}


def texts(folder: Path, *parts: str) -> Iterator[str]:
    """The contents of the files in some folders of a role."""
    for part in parts:
        for path in (folder / part).glob("*"):
            yield path.read_text()


# --- descriptions and defaults --------------------------------------------------------------------------------------


def test_generated_files_are_up_to_date() -> None:
    done = subprocess.run([PROJECT / "script/generate", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_setting_has_a_description_and_a_valid_example_and_default(role: Path) -> None:
    for name, entry in entries(role).items():
        assert entry["description"].endswith("."), name
        for value in [entry[key] for key in ("example", "default") if key in entry]:
            if "{{" not in str(value):
                assert find_problem(name, value, entry, name) is None, name


def test_an_omitted_key_gets_its_default() -> None:
    app = with_defaults(APP | {"health_timeout": 7})
    assert (app["name"], app["health_timeout"], app["drain_timeout"]) == ("shop", 7, 30)


def test_a_partly_set_key_keeps_its_other_defaults() -> None:
    app = with_defaults(APP | {"limits": {"burst": 500}, "media": {"url": "/m/"}})
    assert app["limits"] == {"requests": 30, "burst": 500, "connections": 250}
    assert app["media"] == {"url": "/m/", "path": "media", "inline": False}


def test_the_items_of_a_list_get_the_defaults_of_their_omitted_keys() -> None:
    app = with_defaults(APP | {"processes": [{"name": "mail", "command": "mail"}]})
    assert app["processes"] == [{"name": "mail", "command": "mail", "count": 1}]


def test_an_argument_of_a_role_gets_the_defaults_of_omitted_keys() -> None:
    assert with_defaults({"daily": 14}, "backup_keep") == {"daily": 14, "weekly": 5, "monthly": 12}
    (instance,) = with_defaults([{"name": "shop"}], "redis_instances")
    assert instance == {"name": "shop", "memory": "64m", "persistence": "aof", "when_full": "refuse"}


def names_with_default(entries: dict[str, Any]) -> Iterator[str]:
    """The settings, and the keys in them, that have a default."""
    for name, entry in entries.items():
        if "default" in entry:
            yield name
        for holder in (entry, entry.get("items", {})):
            yield from names_with_default(holder.get("properties", {}))


def test_defaults_stand_only_in_the_settings_of_the_roles() -> None:
    """Not as a constant in default(), nor as get(NAME, CONSTANT) in a plugin; an empty text, list or dict is none."""
    names = {name for role in ROLES for name in names_with_default(entries(role))}
    constant = r"""(?:'[^']|"[^"]|\d|[Tt]rue|\[[^]]|\{[^}])"""
    files = [*PROJECT.glob("playbooks/**/*"), *PROJECT.glob("roles/*/*/*")]
    found = set()
    for path in files:
        if path.suffix in (".yml", ".j2") and path.parent.name != "meta":
            found |= {(path, name) for name in re.findall(rf"(\w+) *\| *default\({constant}", path.read_text())}
    for path in [*PROJECT.glob("plugins/filter/*.py"), *PROJECT.glob("plugins/plugin_utils/*.py")]:
        found |= {(path, name) for name in re.findall(rf"\.get\(\"(\w+)\", {constant}", path.read_text())}
    assert {(path, name) for path, name in found if name in names} == set()


# --- uses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_argument_is_used_and_every_used_argument_exists(role: Path) -> None:
    used: set[str] = set()
    results: set[str] = set()
    for text in texts(role, "tasks", "templates", "handlers", "vars"):
        results |= set(re.findall(r"register: (\w+)", text))
        for facts in re.findall(r"^( +)ansible\.builtin\.set_fact:\n((?:\1  .*\n)+)", text, re.MULTILINE):
            results |= set(re.findall(rf"^{facts[0]}  (\w+):", facts[1], re.MULTILINE))
        used |= set(re.findall(rf"(?<![\w./]){role.name}_[a-z0-9_]+(?=[^\w(]|$)", text))
    used -= results
    assert used == set(role_settings(role.name)["arguments"])


@pytest.mark.parametrize("name", playbook_settings())
def test_a_setting_of_the_playbooks_is_used_by_them_and_by_no_role(name: str) -> None:
    playbooks, utilities, roles = (
        [*(PROJECT / "playbooks").glob("*.yml")],
        [*(PROJECT / "plugins/plugin_utils").glob("*.py"), *(PROJECT / "plugins/filter").glob("*.py")],
        [path for role in ROLES for path in role.rglob("*") if path.is_file() and path.suffix != ".pyc"],
    )
    assert any(re.search(rf"\b{name}\b", path.read_text()) for path in playbooks + utilities)
    assert not any(re.search(rf"\b{name}\b", path.read_text()) for path in roles)


def test_every_key_of_an_app_is_used_and_every_used_key_exists() -> None:
    role = PROJECT / "roles/app"
    used = {
        key for text in texts(role, "tasks", "templates", "vars") for key in re.findall(r"__app_entry\.([a-z_]+)", text)
    }
    assert used <= set(app_keys())
    # An app is a `site` for the other roles, `app` or `args` for the plugins.
    others = [PROJECT / "plugins/action/release_source.py"]
    others += [PROJECT / f"plugins/filter/{name}.py" for name in ("apps", "databases")]
    for folder in ("roles/balancer/templates", "roles/certificate/tasks"):
        others += [path for path in (PROJECT / folder).iterdir() if path.suffix in (".j2", ".yml")]
    for path in others:
        used |= set(re.findall(r"\bsite\.([a-z_]+)", path.read_text()))
        used |= set(re.findall(r'\b(?:app|args)(?:\.get\(|\[)"([a-z_]+)"', path.read_text()))
    used |= {*keys_with("release")}  # options of release_build: see the next test
    assert set(app_keys()) <= used


def test_keys_that_are_part_of_a_release_are_options_of_the_module_that_builds_it() -> None:
    options = yaml.safe_load(release_build.DOCUMENTATION)["options"]
    assert set(keys_with("release")) <= set(options)
    # What main.yml passes on besides decides how a release is built, not what it is.
    task = (PROJECT / "roles/app/tasks/main.yml").read_text().partition("blueoctopus.site.release_build:\n")[2]
    passed = set(re.findall(r"^ +(\w+): .*__app_entry\.\1\b", task.partition("\n\n")[0], re.MULTILINE))
    assert passed == {*keys_with("release", "secret"), "build_secrets"}


def test_a_rollback_uses_exactly_the_keys_that_it_checks() -> None:
    tasks = "".join((PROJECT / f"roles/app/tasks/{name}.yml").read_text() for name in ("rollback", "switch", "undo"))
    assert set(re.findall(r"__app_entry\.(\w+)", tasks)) == set(keys_with("rollback"))


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_role_uses_no_variable_of_another_role(role: Path) -> None:
    others = {name for other in ROLES if other != role for name in role_settings(other.name)["arguments"]}
    for text in texts(role, "tasks", "templates", "handlers", "vars"):
        assert not others & set(re.findall(r"[a-z0-9_]+", text))


def test_a_filter_reads_only_variables_of_the_inventory_by_their_names() -> None:
    """Results of tasks are arguments of the filter, so that the playbook shows where they come from."""
    known = {"apps", "ansible_host", *settings.machine_settings()}
    for path in [*PROJECT.glob("plugins/filter/*.py"), *PROJECT.glob("plugins/plugin_utils/*.py")]:
        text = path.read_text()
        read = re.findall(r'(?:hostvars\[[^]]+\]|variables)(?:\.get\(|\[)"(\w+)"', text)
        read += re.findall(r'"(\w+)" (?:not )?in (?:hostvars\[|variables\b)', text)
        assert set(read) <= known, path


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_arguments_start_with_the_name_of_their_role_and_entry_points_have_tasks(role: Path) -> None:
    assert all(name.startswith(f"{role.name}_") for name in role_settings(role.name)["arguments"])
    for point in role_settings(role.name)["entry_points"]:
        assert (role / f"tasks/{point}.yml").is_file(), point


# --- the JSON Schema of the inventory -------------------------------------------------------------------------------


VARIABLES = sorted(path for path in PROJECT.glob("inventory/*/*_vars/**/*.yml") if path.name != "vault.yml")
VALID: list[dict[str, Any]] = [
    {"apps": [APP | {"workers": "{{ cores }}", "secrets": {"KEY": "{{ vault_key }}"}}], "own_variable": 1},
    {"apps": [APP | {"limits": {"burst": 500}}], "ssh_port": 2222},
]
# Invalid variables, each with the name that the error contains.
INVALID: list[tuple[dict[str, Any], str]] = [
    ({"apps": [APP | {"worker": 3}]}, "worker"),
    ({"apps": [APP | {"workers": "three"}]}, "workers"),
    ({"apps": [{key: value for key, value in APP.items() if key != "wsgi"}]}, "wsgi"),
    ({"apps": [APP | {"limits": {"bursts": 300}}]}, "bursts"),
    ({"nginx_http_prt": 80}, "nginx_http_prt"),
    ({"ssh_port": 70000}, "ssh_port"),
]


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The errors of check-jsonschema in each of these files, by its path or its name; one run checks all of them."""
    folder = tmp_path_factory.mktemp("variables")
    for name, variables in [
        *((f"valid{number}.yml", variables) for number, variables in enumerate(VALID)),
        *((f"invalid{number}.yml", variables) for number, (variables, _) in enumerate(INVALID)),
    ]:
        (folder / name).write_text(yaml.safe_dump(variables))
    program = [Path(sys.executable).parent / "check-jsonschema", "--output-format=json", "--schemafile"]
    files = [PROJECT / "inventory/schema.json", *VARIABLES, *sorted(folder.iterdir())]
    done = subprocess.run([*map(str, program), *map(str, files)], capture_output=True, text=True)
    report = json.loads(done.stdout)
    assert not report["parse_errors"]
    found = dict.fromkeys([*map(str, VARIABLES), *(path.name for path in folder.iterdir())], "")
    for error in report["errors"]:
        found[error["filename"].removeprefix(f"{folder}/")] += f"{error['path']}: {error['message']}\n"
    return found


@pytest.mark.parametrize("path", VARIABLES, ids=lambda path: str(path)[-30:])
def test_the_inventory_of_the_project_is_valid_and_refers_to_its_schema(errors: dict[str, str], path: Path) -> None:
    schema = path.read_text().split("$schema=")[1].split()[0]
    assert (path.parent / schema).resolve() == PROJECT / "inventory/schema.json"
    assert errors[str(path)] == ""


@pytest.mark.parametrize("number", range(len(VALID)))
def test_the_schema_accepts_the_same_values_as_the_playbooks(errors: dict[str, str], number: int) -> None:
    assert errors[f"valid{number}.yml"] == ""


@pytest.mark.parametrize("number", range(len(INVALID)), ids=lambda number: INVALID[number][1])
def test_the_schema_refuses_the_same_values_as_the_playbooks(errors: dict[str, str], number: int) -> None:
    assert INVALID[number][1] in errors[f"invalid{number}.yml"]


def test_the_schema_contains_every_key_and_every_setting() -> None:
    schema = json.loads((PROJECT / "inventory/schema.json").read_text())
    assert list(schema["properties"]["apps"]["items"]["properties"]) == list(app_keys())
    wanted = {name for name, entry in settings.machine_settings().items() if entry.get("inventory", True)}
    assert set(schema["properties"]) == wanted | {"apps"}
