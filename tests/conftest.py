"""Make the collection importable by its full name, as in Ansible; fixtures that several files share."""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.yaml import yaml_load
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template
from compiled_templates import compile_once
from nginx_site import Site, temporary_site
from programs import missing

pytest_plugins = ["backup_data", "modules", "postgresql_server"]  # their fixtures

init_plugin_loader([str(Path(__file__).resolve().parent.parent / "collections")])
compile_once()

from ansible_collections.blueoctopus.site.plugins.action import release_source  # noqa: E402
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases  # noqa: E402


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose programs are not installed. With the variable CI, which script/test sets, it fails instead."""
    needed = {name for mark in item.iter_markers("needs") for name in mark.args}
    if "root" in needed and os.geteuid() != 0:
        pytest.skip("needs root")
    if lacking := missing(sorted(needed - {"root"})):
        end = pytest.fail if os.environ.get("CI") else pytest.skip
        end(f"needs {', '.join(lacking)}: run script/bootstrap --tests")


@pytest.fixture(autouse=True)
def same_umask() -> Iterator[None]:
    """Restore the umask, which the programs that tests run in this process may change."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def isolated_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the control node's settings for git, and use a separate cache for packed sources."""
    for name in [name for name in os.environ if name.startswith("GIT_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Somebody")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "somebody@example.org")
    monkeypatch.setattr(release_source, "CACHE", tmp_path / "cache")
    release_source.CACHE.mkdir()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The source folder of a small app."""
    folder = tmp_path / "source"
    (folder / "templates").mkdir(parents=True)
    (folder / "main.py").write_text("app = None\n")
    (folder / "requirements.txt").write_text("flask\n")
    (folder / "templates/index.html").write_text("<p>\n")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/main.pyc").write_text("")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Releases:
    """An app without releases."""
    new = Releases("shop", tmp_path / "shop", sites=tmp_path / "sites")
    new.folder.mkdir(parents=True)
    return new


# --- templates --------------------------------------------------------------------------------------------------------

ROLES = Path(__file__).resolve().parent.parent / "roles"
APP = {"name": "shop", "domains": ["shop.example"], "source": "app", "wsgi": "main:app"}
Render = Callable[..., str]


def trusted(value: Any) -> Any:
    """Mark the strings in a value as templates, like the strings in files that Ansible reads."""
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, list):
        return [trusted(v) for v in value]
    return {k: trusted(v) for k, v in value.items()} if isinstance(value, dict) else value


@functools.cache
def deploy_arguments() -> dict[str, Any]:
    """The arguments of the role app in playbooks/deploy.yml."""
    plays = yaml.safe_load((ROLES.parent / "playbooks/deploy.yml").read_text())
    tasks = [task for play in plays for task in play.get("tasks", [])]
    return dict(next(task["vars"] for task in tasks if task["name"] == "Deploy each app"))


@functools.cache
def own_variables(role: str) -> dict[str, Any]:
    """The defaults and the variables of a role, with their templates."""
    paths = [ROLES / role / file for file in ("defaults/main.yml", "vars/main.yml")]
    return {name: value for path in paths if path.exists() for name, value in yaml_load(path.read_text()).items()}


def templar(role: str, app: dict[str, Any] | None = None, **values: Any) -> Templar:
    """What evaluates templates with a role's defaults and variables, the given keys of the app, and other values."""
    variables: dict[str, Any] = {"ansible_managed": "managed"} | trusted(own_variables(role))
    if role == "app":
        variables["app_nginx"] = deploy_arguments()["app_nginx"]
    facts = {"distribution": "Debian", "distribution_major_version": "13"}
    return Templar(DataLoader(), variables | {"app_config": APP | (app or {}), "ansible_facts": facts} | values)


@pytest.fixture
def render() -> Render:
    """Render a role's template with the role's defaults, the given keys of the app, and other values."""

    def rendered(role: str, template: str, app: dict[str, Any] | None = None, **values: Any) -> str:
        text = (ROLES / role / "templates" / template).read_text()
        options: dict[str, Any] = {"trim_blocks": True}  # as Ansible does: an included file loses its last line break
        if text.startswith("#jinja2:"):
            head, _, text = text.partition("\n")
            options |= dict(re.findall(r"(\w+):'([^']*)'", head))
        return str(
            templar(role, app, **values)
            .copy_with_new_env(searchpath=[str(ROLES / role / "templates")])
            .template(trust_as_template(text), escape_backslashes=False, overrides=options)
        )

    return rendered


@pytest.fixture
def evaluate() -> Callable[..., Any]:
    """Evaluate a variable of a role, with the given keys of the app, and other values."""

    def evaluated(role: str, name: str, app: dict[str, Any] | None = None, **values: Any) -> Any:
        return templar(role, app, **values).template(trust_as_template("{{ " + name + " }}"))

    return evaluated


@pytest.fixture
def site(render: Render) -> Iterator[Site]:
    """A site that does not run yet; its app does."""
    with temporary_site(render) as new:
        yield new


# --- the program of the role certificate ------------------------------------------------------------------------------

PROGRAM = Path(__file__).resolve().parent.parent / "roles/certificate/files/certificates"
SETTINGS = {
    "domains": ["shop.example", "www.shop.example"],
    "method": "selfsigned",
    "directory": "https://ca.example/dir",
    "ca_bundle": "",
    "email": "",
    "challenge": "http",
    "dns_provider": "",
    "check_names": False,
}
Make = Callable[..., Any]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, with folders of its own."""
    loader = importlib.machinery.SourceFileLoader("certificates", str(PROGRAM))
    spec = importlib.util.spec_from_loader("certificates", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    for name, path in {"SETTINGS": "etc", "STATE": "state", "CHALLENGES": "challenges"}.items():
        (tmp_path / path).mkdir()
        monkeypatch.setattr(module, name, tmp_path / path)
    monkeypatch.setattr(module, "CHANGED", tmp_path / "state/changed")
    monkeypatch.setattr(module, "COMBINED", tmp_path / "state/haproxy")
    return module


@pytest.fixture
def make(program: ModuleType) -> Make:
    """Make the certificate of a site with some settings."""

    def made(**settings: Any) -> Any:
        (program.SETTINGS / "shop.json").write_text(json.dumps(SETTINGS | settings))
        return program.Certificate("shop")

    return made


# --- the packages of the app ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def gunicorn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gunicorn in a virtual environment with the dependencies of the app that ships with the project."""
    venv = tmp_path_factory.mktemp("gunicorn") / "venv"
    uv, python = Path(sys.executable).parent / "uv", venv / "bin/python"
    install = ["sync", "--quiet", "--system-certs", "--require-hashes", f"--python={python}"]
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, venv], check=True)
    subprocess.run([uv, "pip", *install, ROLES.parent / "app/requirements.txt"], check=True)
    return venv / "bin/gunicorn"
