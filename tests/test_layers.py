"""What a role may know: no path of another role. Playbooks pass on what one role has and another one needs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.blueoctopus.site.plugins.action import reach_host
from ansible_collections.blueoctopus.site.plugins.filter.databases import AUTHORITIES, redis_of, with_databases
from ansible_collections.blueoctopus.site.plugins.module_utils import app_redis, release_lock
from ansible_collections.blueoctopus.site.plugins.plugin_utils import site_paths
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import roles, with_defaults
from jinja2 import Template

PROJECT = Path(__file__).resolve().parent.parent
MOST_LINES = 400
BASES = "/etc|/run|/srv|/usr/local/bin|/usr/local/lib|/usr/local/sbin|/var/cache|/var/lib|/var/log|/var/run"
# A path of a role begins with the name of the role, or with one of these.
OWNERS = {
    "app-redis": "redis",
    "certbot": "certificate",
    "haproxy": "balancer",
    "keepalived": "balancer",
    "releases": "app",
    "ssl/databases": "postgresql",
    "uv": "base",
}
# Debian's packages choose these.
DEBIAN = ("/run/postgresql", "/var/run/postgresql", "/var/log/postgresql")
DEBIAN_UNITS = {"nginx", "postgresql", "redis-server"}


def owner(name: str) -> str:
    """The role to which a file or folder of a host belongs; empty when it is none's."""
    owners = OWNERS | {role: role for role in roles()} | {f"{role}s": role for role in roles()}
    return next((role for prefix, role in owners.items() if re.match(rf"{prefix}\b", name)), "")


def texts(role: str) -> Iterator[str]:
    """The contents of the files of a role, without examples and comments about arguments."""
    for part in ("tasks", "templates", "vars", "handlers", "files"):
        for path in (PROJECT / "roles" / role / part).rglob("*"):
            if path.is_file() and path.parent.name != "__pycache__":
                yield path.read_text()
    for path in (PROJECT / "roles" / role / "defaults").glob("*.yml"):
        yield re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE)


def arguments(playbook: str, role: str) -> list[dict[str, Any]]:
    """What a playbook passes to a role, at each of its uses."""
    plays = yaml.safe_load((PROJECT / "playbooks" / playbook).read_text())
    tasks = [task for play in plays for task in play.get("tasks", [])]
    found = []
    for task in tasks:
        used = task.get("ansible.builtin.import_role") or task.get("ansible.builtin.include_role") or {}
        if used.get("name") == f"blueoctopus.site.{role}":
            found.append(task.get("vars", {}))
    assert found
    return found


def test_no_python_file_is_longer_than_the_limit() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    lengths = {}
    for name in listed.splitlines():
        path = PROJECT / name
        if path.is_file() and not path.is_symlink():
            lines = path.read_bytes().splitlines()
            if name.endswith(".py") or (lines and re.match(rb"#!.*\bpython", lines[0])):
                lengths[name] = len(lines)
    assert {"roles/certificate/files/certificates", "script/generate", "tests/conftest.py"} <= set(lengths)
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


@pytest.mark.parametrize("role", roles())
def test_a_role_contains_no_path_of_another_role(role: str) -> None:
    found = [
        match
        for text in texts(role)
        for match in re.finditer(rf"(?<![\w.}}/*)\]>-])(?:{BASES})/([\w./@-]+)", text)
        if not match[0].startswith(DEBIAN)
    ]
    assert {match[0] for match in found if owner(match[1]) not in ("", role)} == set()


@pytest.mark.parametrize("role", roles())
def test_a_role_contains_no_unit_of_another_role(role: str) -> None:
    # Also a name that a template or an expression puts together, such as 'app-redis-' ~ NAME ~ '.service'.
    # A command that a message advises may name one.
    pattern = r"(?<!systemctl status )(?<![\w@-])([\w@-]+)(?:' ~ [^~]+ ~ '|\{\{[^}]+\}\})?\.(?:service|socket|timer)\b"
    found = {match for text in texts(role) for match in re.findall(pattern, text)} - DEBIAN_UNITS
    assert {name for name in found if owner(name) not in ("", role)} == set()


def test_the_names_that_sites_get_are_those_of_the_role_nginx() -> None:
    (given,) = [variables["app_nginx"] for variables in arguments("deploy.yml", "app")]
    nginx = PROJECT / "roles/nginx"
    files = (nginx / "vars/main.yml").read_text()
    for key in ("errors", "error_pages", "challenge"):
        assert f"'{given[key]}': lookup(" in files
    main = (nginx / "templates/nginx.conf.j2").read_text()
    for key in ("site", "websockets"):
        assert f'map "" {given[key]} {{' in main
    assert f"location ^~ {given['error_url']} {{" in (nginx / "templates/errors.conf.j2").read_text()
    assert given["error_url"] == site_paths.ERRORS
    of_sites = "".join(path.read_text() for path in (PROJECT / "roles/app/templates").iterdir())
    for key, name in given.items():
        assert name not in of_sites, key


def test_playbooks_pass_the_paths_that_roles_and_modules_have() -> None:
    uv = yaml.safe_load((PROJECT / "roles/base/vars/main.yml").read_text())["__base_uv"] + "/bin/uv"
    assert [variables["app_uv"] for variables in arguments("deploy.yml", "app")] == [uv]
    given = [variables.get("certificate_uv", uv) for variables in arguments("provision.yml", "certificate")]
    assert set(given) == {uv}
    locks = [variables.get("backup_locks") for variables in arguments("provision-backups.yml", "backup")]
    assert [folder for folder in locks if folder] == [str(release_lock.FOLDER)]


def test_apps_get_the_paths_of_their_databases_that_the_roles_have(render: Callable[..., str]) -> None:
    app = with_defaults({"name": "shop", "domains": ["shop.example"], "source": "app", "wsgi": "main:app", "redis": {}})
    url = with_databases(app, "web1", {"web1": {"apps": [app]}}, {"webservers": ["web1"]}, {})["environment"][
        "REDIS_URL"
    ]
    (instance,) = redis_of([app])
    (after,) = [variables["app_after"] for variables in arguments("deploy.yml", "app")]
    assert Template(after).render(app_name="shop", app_config=app) == f"['{app_redis.PREFIX}shop.service']"
    config = render("redis", "redis.conf.j2", instance=instance, __redis_program="redis")
    assert f"unixsocket {url.removeprefix('unix://')}\n" in config
    files = yaml.safe_load((PROJECT / "roles/postgresql/vars/main.yml").read_text())["__postgresql_root_files"]
    assert f"'{AUTHORITIES}/\\1.pem'" in files


def test_no_result_of_a_task_gets_into_a_fact_cache() -> None:
    """Only reach_host returns facts: the distribution and its version, as Ansible's own module setup does."""
    paths = [path for folder in ("playbooks", "roles", "plugins") for path in (PROJECT / folder).rglob("*.*")]
    contents = {str(path.relative_to(PROJECT)): path.read_text() for path in paths if path.suffix in (".py", ".yml")}
    assert len(contents) > 200
    assert [name for name, text in contents.items() if "cacheable" in text] == []
    plugins = {Path(name).stem for name, text in contents.items() if name.endswith(".py") and "ansible_facts" in text}
    assert plugins == {"reach_host", "concise"}  # the callback `concise` does not print the facts in a result
    found = reach_host.facts({"ID": "debian", "VERSION_ID": "13", "PRETTY_NAME": "Debian GNU/Linux 13"})
    assert found == {"distribution": "Debian", "distribution_major_version": "13"}
