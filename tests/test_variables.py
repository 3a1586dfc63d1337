"""The variables of roles and playbooks, as Jinja parses them: each use has a definition, and each definition a use."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import (
    app_keys,
    machine_settings,
    role_settings,
    roles,
)
from jinja2 import Environment, nodes

PROJECT = Path(__file__).resolve().parent.parent
# Values of these are expressions, without braces.
EXPRESSIONS = {"when", "that", "changed_when", "failed_when"}
# What Ansible and Jinja define.
DEFINED = {
    "ansible_check_mode", "ansible_facts", "ansible_host", "ansible_inventory_sources", "ansible_managed",
    "ansible_play_hosts", "ansible_play_hosts_all", "dict", "group_names", "groups", "hostvars", "inventory_hostname",
    "item", "lookup", "loop", "omit", "playbook_dir", "query", "range", "role_path",
}  # fmt: skip
# The options -e of the playbooks, and the list of the inventory.
OPTIONS = {
    "app", "apps", "canary", "canary_watch", "data", "drill", "drop_old", "everywhere", "former", "lines", "operation",
    "patience", "prune", "rebuild", "release", "report", "primary_is_off",
    "promote",
    "retire", "server", "state", "take_over_lock", "target",
    "skip_unreachable", "untested_system",
}  # fmt: skip
# Results of roles for others, and those that ansible-lint demands where errors are ignored.
RESULTS = {
    "admin_result", "app_results", "backup_first_base", "backup_identity", "certificate_results", "firewall_result",
    "metrics_authority", "postgresql_authority", "postgresql_dropped", "postgresql_upgrade", "postgresql_upgraded",
    "ssh_result",
    "__app_drain_begun", "__app_drain_ended", "__app_drained",
}  # fmt: skip


def strings(content: Any, key: str = "") -> Iterator[str]:
    """The templates in a file of YAML."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from strings(str(name))
            yield from strings(value, str(name))
    elif isinstance(content, list):
        for value in content:
            yield from strings(value, key)
    elif isinstance(content, str):
        yield f"{{{{ {content} }}}}" if key in EXPRESSIONS and "{{" not in content else content


def defined_in(content: Any) -> Iterator[str]:
    """The variables that tasks and plays define."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key in ("register", "loop_var"):
                yield value
            elif key in ("vars", "ansible.builtin.set_fact"):
                yield from value
            yield from defined_in(value)
    elif isinstance(content, list):
        for value in content:
            yield from defined_in(value)


environment = functools.cache(Environment)


@functools.cache
def parse(text: str) -> nodes.Template:
    """A template as Jinja parses it, with the options in its first line."""
    options = dict(re.findall(r"(variable_\w+):'([^']*)'", text.partition("\n")[0]))
    return environment(**options).parse(text)  # nothing is rendered


def named(tree: nodes.Template, context: str) -> set[str]:
    """The names in a template that are used, `load`, or defined, `store`."""
    return {name.name for name in tree.find_all(nodes.Name) if (name.ctx == "load") == (context == "load")}


@functools.cache
class Role:
    """The variables of a role."""

    def __init__(self, name: str) -> None:
        self.used: set[str] = set()
        self.own: set[str] = set()
        self.trees = []
        folder = PROJECT / "roles" / name
        for path in [*folder.glob("tasks/*.yml"), *folder.glob("handlers/*.yml"), *folder.glob("vars/*.yml")]:
            content = yaml.safe_load(path.read_text())
            self.own |= set(defined_in(content)) | (set(content) if path.parent.name == "vars" else set())
            self.trees += [parse(text) for text in strings(content)]
        self.trees += [parse(path.read_text()) for path in folder.glob("templates/*")]
        for tree in self.trees:
            self.used |= named(tree, "load")
            self.own |= named(tree, "store")


@pytest.mark.parametrize("name", roles())
def test_a_role_uses_its_arguments_and_what_it_defines_itself(name: str) -> None:
    role, arguments = Role(name), set(role_settings(name)["arguments"])
    assert role.used - role.own - arguments - DEFINED == set()
    assert arguments - role.used == set()
    # Some results are for others; the filter results_of gets names as texts.
    texts = {text.value for tree in role.trees for text in tree.find_all(nodes.Const) if isinstance(text.value, str)}
    assert role.own - role.used - texts - RESULTS == set()


@functools.cache
class EntryPoint:
    """What Ansible reads for an entry point of a role: the parts of the role's files, and the names that they use."""

    def __init__(self, role: str, point: str) -> None:
        folder = PROJECT / "roles" / role
        self.used: set[str] = set()
        self.parts: set[tuple[str, str]] = set()
        self.tasks = {path.name: yaml.safe_load(path.read_text()) for path in folder.glob("tasks/*.yml")}
        self.templates = {path.name: path.read_text() for path in folder.glob("templates/*")}
        self.variables, self.handlers = self.read(folder, "vars") or {}, self.read(folder, "handlers") or []
        self.add("tasks", f"{point}.yml")

    @staticmethod
    def read(folder: Path, part: str) -> Any:
        path = folder / part / "main.yml"
        return yaml.safe_load(path.read_text()) if path.exists() else None

    def add(self, kind: str, name: str) -> None:
        """Add a part, and all parts that it names."""
        if (kind, name) in self.parts:
            return
        self.parts.add((kind, name))
        kinds: dict[str, dict[str, Any]] = {
            "tasks": self.tasks, "templates": self.templates, "variables": self.variables, "handlers": {},
        }  # fmt: skip
        content = kinds[kind].get(name)
        if kind == "handlers":
            content = [handler for handler in self.handlers if name in (handler["name"], handler.get("listen"))]
        for text in strings(content):
            tree = parse(text)
            # Ansible does not evaluate the values of VARIABLE.keys().
            skipped = {id(node.node) for node in tree.find_all(nodes.Getattr) if node.attr == "keys"}
            names = {
                found.name for found in tree.find_all(nodes.Name) if found.ctx == "load" and id(found) not in skipped
            }
            self.used |= names
            for found in names & set(self.variables):
                self.add("variables", found)
            for found in self.templates:
                if re.search(rf"(?<![\w.@-]){re.escape(found)}(?![\w.-])", text):
                    self.add("templates", found)
            if text in self.tasks:
                self.add("tasks", text)
            if any(text in (handler["name"], handler.get("listen")) for handler in self.handlers):
                self.add("handlers", text)


@pytest.mark.parametrize("name", roles())
def test_an_entry_point_uses_exactly_its_arguments(name: str) -> None:
    described, own = role_settings(name), Role(name).own
    for point, entry in described["entry_points"].items():
        listed = set(entry.get("arguments", described["arguments"]))
        assert EntryPoint(name, point).used & set(described["arguments"]) - (own - listed) == listed, point


@pytest.mark.parametrize("name", roles())
def test_each_file_of_a_role_belongs_to_an_entry_point(name: str) -> None:
    parts = {part for point in role_settings(name)["entry_points"] for part in EntryPoint(name, point).parts}
    folder = PROJECT / "roles" / name
    files = {(kind, path.name) for kind in ("tasks", "templates") for path in (folder / kind).glob("*")}
    assert files - parts == set()


def attributes(tree: nodes.Template, name: str) -> Iterator[list[str]]:
    """The attributes of a variable that a template uses, such as ["limits", "burst"]."""
    inner = {id(node.node) for node in tree.find_all(nodes.Getattr)}
    for node in tree.find_all(nodes.Getattr):
        path: list[str] = []
        part: nodes.Node = node
        while isinstance(part, nodes.Getattr):
            path.insert(0, part.attr)
            part = part.node
        if id(node) not in inner and isinstance(part, nodes.Name) and part.name == name:
            yield path


def is_known(path: list[str], entries: Any) -> bool:
    """Whether the settings describe a key, and the keys in it."""
    entry = entries.get(path[0])
    inner = (entry or {}).get("properties")
    return entry is not None and (len(path) == 1 or not inner or is_known(path[1:], inner))


@pytest.mark.parametrize(("role", "variable"), [("app", "__app_entry"), ("certificate", "site")])
def test_a_role_uses_only_keys_of_an_app_that_are_described_also_nested_ones(role: str, variable: str) -> None:
    used = [path for tree in Role(role).trees for path in attributes(tree, variable)]
    assert used
    assert [path for path in used if not is_known(path, app_keys())] == []


def nested(path: tuple[str, ...], entry: Any) -> Iterator[tuple[str, ...]]:
    """The keys in a setting and in its items, as paths."""
    for properties in [holder.get("properties", {}) for holder in (entry, entry.get("items", {}))]:
        for name, inner in properties.items():
            yield (*path, name)
            yield from nested((*path, name), inner)


@pytest.mark.parametrize("name", roles())
def test_each_key_in_a_setting_is_used(name: str) -> None:
    """As SETTING.KEY if the role uses other keys of the setting so, otherwise by its name, also in a plugin."""
    role, described = Role(name), role_settings(name)
    variables = {argument: (argument,) for argument in described["arguments"]} | {"__app_entry": ()}
    paths = {
        (*root, *path[:length])
        for tree in role.trees
        for variable, root in variables.items()
        for path in attributes(tree, variable)
        for length in range(1, len(path) + 1)
    }
    trees = [tree for other in roles() for tree in Role(other).trees]  # an app's key `redis` is for the role redis
    names = {part.attr for tree in trees for part in tree.find_all(nodes.Getattr)}
    names |= {text.value for tree in trees for text in tree.find_all(nodes.Const) if isinstance(text.value, str)}
    files = [*PROJECT.glob("plugins/**/*.py"), *PROJECT.glob("roles/*/files/**/*.py")]
    in_python = {found for path in files for found in re.findall(r"""["'](\w+)["']""", path.read_text())}
    for setting, entry in {**described["arguments"], **described.get("keys", {})}.items():
        keys = [*nested((setting,), entry)]
        for key in keys:
            siblings = {other for other in keys if other[:-1] == key[:-1]}
            used = key in paths if siblings & paths else key[-1] in names | in_python
            assert used, key


def test_playbooks_use_settings_options_and_what_they_define_themselves() -> None:
    used: set[str] = set()
    defined: set[str] = set()
    read: set[str] = set()
    texts: set[str] = set()
    paths = [*(PROJECT / "playbooks").glob("*.yml")]
    for path in paths:
        content = yaml.safe_load(path.read_text())
        defined |= set(defined_in(content))
        for tree in map(parse, strings(content)):
            used |= named(tree, "load")
            defined |= named(tree, "store")
            texts |= {text.value for text in tree.find_all(nodes.Const) if isinstance(text.value, str)}
            filters = [
                found for found in tree.find_all(nodes.Filter) if found.name.endswith((".setting", ".settings_for"))
            ]
            read |= {
                argument.value for found in filters for argument in found.args if isinstance(argument, nodes.Const)
            }
    assert used - defined - DEFINED - OPTIONS - RESULTS - set(machine_settings()) == set()
    arguments = {argument for role in roles() for argument in role_settings(role)["arguments"]}
    for path in (PROJECT / "playbooks/templates").iterdir():
        used |= named(parse(path.read_text()), "load")
    assert defined - used - texts - arguments - {"ansible_port", "ansible_user"} == set()
    assert read
    assert read <= set(machine_settings())


def test_each_option_of_the_playbooks_is_in_a_guide() -> None:
    text = "".join(path.read_text() for path in [PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md")])
    assert {option for option in OPTIONS - {"apps"} if f"-e {option}=" not in text} == set()
