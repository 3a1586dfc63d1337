"""Roles used alone: the metadata of each role, the example plays in the READMEs, errors for missing arguments."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.blueoctopus.site.plugins.action.check_hosts import SUPPORTED
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import app_keys, role_settings, roles
from ansible_collections.blueoctopus.site.plugins.plugin_utils.validation import find_problem

PROJECT = Path(__file__).resolve().parent.parent
PREFIX = "blueoctopus.site."
SUITES = {"12": "bookworm", "13": "trixie"}
# Nothing listens on this port: a task that needs the host fails, so that these tests change no host.
UNREACHABLE = {"ansible_host": "127.0.0.1", "ansible_port": 9, "ansible_connection": "ssh"}
# Arguments of the role app.
REQUIRED = {"app_uv": "/opt/uv", "app_nginx": role_settings("app")["arguments"]["app_nginx"]["example"]}
Play = Callable[..., subprocess.CompletedProcess[str]]


def examples(role: str) -> list[dict[str, Any]]:
    """The example plays in a role's README."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", (PROJECT / "roles" / role / "README.md").read_text(), re.M | re.S)
    return [play for block in blocks for play in yaml.safe_load(block)]


def calls(play: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The roles that a play runs: the name of each, its entry point and its variables."""
    for entry in play.get("roles", []):
        yield entry["role"], "main", entry.get("vars", {})
    for task in play.get("tasks", []):
        arguments = task["ansible.builtin.import_role"]
        yield arguments["name"], arguments.get("tasks_from", "main"), task.get("vars", {})


def included(content: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The roles that tasks anywhere in a file include: the name of each, its entry point and its variables."""
    for part in content if isinstance(content, list) else content.values() if isinstance(content, dict) else ():
        yield from included(part)
    if isinstance(content, dict):
        for action in ("ansible.builtin.import_role", "ansible.builtin.include_role"):
            if action in content:
                yield content[action]["name"], content[action].get("tasks_from", "main"), content.get("vars", {})


def without_templates(value: Any) -> Any:
    """A set of keys without those whose value is a template."""
    return {k: v for k, v in value.items() if "{{" not in str(v)} if isinstance(value, dict) else value


@pytest.fixture
def playbook(tmp_path: Path) -> Play:
    """Run ansible-playbook on playbooks with the given plays, by the names of the files."""

    def run(
        plays: Mapping[str, list[dict[str, Any]]], *options: str, hosts: Mapping[str, dict[str, Any]] | None = None
    ) -> subprocess.CompletedProcess[str]:
        webservers = {host: UNREACHABLE | variables for host, variables in (hosts or {"web1": {}}).items()}
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"webservers": {"hosts": webservers}}))
        paths = [tmp_path / f"{name}.yml" for name in plays]
        for path, content in zip(paths, plays.values(), strict=True):
            path.write_text(yaml.safe_dump(content, sort_keys=False))
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "XDG_"))}
        environment |= {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "HOME": str(tmp_path)}
        environment |= {"ANSIBLE_PIPELINING": "1", "ANSIBLE_STDOUT_CALLBACK": "default"}  # which shows every task
        return subprocess.run(
            ["ansible-playbook", "-i", tmp_path / "hosts.yml", *options, *paths],
            cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    return run


# --- metadata -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", roles())
def test_the_platforms_of_a_role_are_the_tested_and_supported_ones(role: str) -> None:
    info = yaml.safe_load((PROJECT / "roles" / role / "meta/main.yml").read_text())["galaxy_info"]
    settings = [
        yaml.safe_load(path.read_text()) for path in PROJECT.glob("molecule/*/inventory/host_vars/*/settings.yml")
    ]
    tested = {str(machine["machine_debian"]) for machine in settings if "machine_debian" in machine}
    assert tested == set(SUPPORTED["debian"])
    assert info["platforms"] == [{"name": "Debian", "versions": [SUITES[version] for version in sorted(tested)]}]


# --- example plays --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", roles())
def test_a_readme_has_an_example_play_with_valid_arguments(role: str) -> None:
    used = [call for play in examples(role) for call in calls(play)]
    assert PREFIX + role in {name for name, _, _ in used}
    for name, point, variables in used:
        described = role_settings(name.removeprefix(PREFIX))
        known = described["entry_points"][point].get("arguments", list(described["arguments"]))
        assert set(variables) <= set(known)
        for argument, value in without_templates(variables).items():
            assert find_problem(argument, value, described["arguments"][argument], role) is None
        for key, value in without_templates(variables.get("app_config", {})).items():
            assert find_problem(key, value, app_keys()[key], role) is None


@pytest.mark.parametrize("role", roles())
def test_an_example_play_gathers_the_facts_that_its_roles_use(role: str) -> None:
    for play in examples(role):
        for name, _, _ in calls(play):
            files = (PROJECT / "roles" / name.removeprefix(PREFIX)).glob("*/*")
            if any("ansible_facts" in path.read_text() for path in files if path.parent.name != "files"):
                assert play.get("gather_facts") is True, name


@pytest.mark.slow
def test_example_plays_pass_the_argument_specs_of_their_roles(playbook: Play, tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/id_ed25519.pub").write_text("ssh-ed25519 AAAA somebody\n")
    # The hosts do not exist. Ansible validates the arguments in a task with the tag `always`; no other one has it.
    plays = {role: [play | {"gather_facts": False, "hosts": "web1"} for play in examples(role)] for role in roles()}
    done = playbook(plays, "--check", "--tags", "validation-only")
    assert done.returncode == 0, done.stdout
    validated = re.findall(r"^TASK \[(\S+) : Validating arguments against arg spec '(\w+)'", done.stdout, re.M)
    called = [(name, point) for role in roles() for play in examples(role) for name, point, _ in calls(play)]
    points = {name: role_settings(name.removeprefix(PREFIX))["entry_points"] for name, _ in called}
    wanted = [(name, point) for name, point in called if points[name][point].get("arguments") != []]
    assert validated == wanted, done.stdout
    assert done.stdout.count("TASK [") == len(wanted), done.stdout


def test_playbooks_use_entry_points_with_an_argument_spec() -> None:
    text = "".join(path.read_text() for path in PROJECT.glob("playbooks/*.yml"))
    used = re.findall(r"(?:import|include)_role:\n +name: blueoctopus\.site\.(\w+)\n(?: +tasks_from: (\S+))?", text)
    assert len(used) > 10
    for role, point in used:
        # Ansible validates the arguments only if tasks_from is the name of an entry point, without .yml.
        if (point or "main") not in role_settings(role)["entry_points"]:
            tasks = (PROJECT / "roles" / role / f"tasks/{point.removesuffix('.yml')}.yml").read_text()
            assert not re.search(rf"\b{role}_[a-z_]+", tasks), f"{role}, {point}: the arguments are not validated"


def test_playbooks_use_each_entry_point_of_each_role() -> None:
    calls_of = [call for path in PROJECT.glob("playbooks/*.yml") for call in included(yaml.safe_load(path.read_text()))]
    used = {(name.removeprefix(PREFIX), point) for name, point, _ in calls_of}
    assert {(role, point) for role in roles() for point in role_settings(role)["entry_points"]} - used == set()


def test_the_variables_of_included_roles_are_their_arguments() -> None:
    files = [path for folder in ("playbooks", "molecule", "examples") for path in (PROJECT / folder).rglob("*.yml")]
    used = [call for path in files for call in included(yaml.safe_load(path.read_text()))]
    assert len(used) > 30
    for name, point, variables in used:
        described = role_settings(name.removeprefix(PREFIX))
        entry = described["entry_points"].get(point, {})  # without an entry point, the tasks use no argument
        known = entry.get("arguments", list(described["arguments"])) if entry else []
        assert set(variables) <= set(known), f"{name}, {point}"


@pytest.mark.slow
def test_a_wrong_argument_fails_before_the_first_task_of_the_role(playbook: Play) -> None:
    (play, _) = examples("app")
    play["roles"][0]["vars"]["app_config"]["limits"] = {"bursts": 300}
    done = playbook({"app": [play]}, "--check", "--tags", "validation-only")
    assert done.returncode != 0
    assert "bursts" in done.stdout


# --- missing arguments ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("cases", "refused"), [
    ({"acme": "", "selfsigned": ""}, True),
    ({"acme": "/etc/ssl/shop.pem", "none": ""}, False),
])  # fmt: skip
def test_https_without_a_certificate_is_refused_before_the_deploy(
    playbook: Play, source: Path, cases: dict[str, str], refused: bool
) -> None:
    app = {"name": "shop", "domains": ["shop.example"], "source": str(source), "wsgi": "main:app"}
    # A host for each case; no host of the tests can be reached.
    hosts = {
        tls: REQUIRED | {"app_config": app | {"tls": tls}, "app_certificate": path, "app_certificate_key": path}
        for tls, path in cases.items()
    }
    plays = [{"name": "Deploy", "hosts": "webservers", "roles": [{"role": "blueoctopus.site.app"}]}]
    done = playbook({"app": plays}, hosts=hosts)
    assert done.returncode != 0
    text = " ".join(done.stdout.split())
    for tls in cases:
        error = f"shop: app_certificate or app_certificate_key is not set, but tls is {tls}. Set them to the files"
        assert (error in text) == refused, done.stdout
    assert ("TASK [blueoctopus.site.app : Lock the app]" in text) != refused, done.stdout


# --- shared arguments -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_step_of_a_deploy_gets_the_arguments_that_all_steps_share(playbook: Play, source: Path) -> None:
    app = {"name": "no-such-app", "domains": ["shop.example"], "source": str(source), "wsgi": "main:app", "tls": "none"}
    app["release_command"] = "true"
    variables = REQUIRED | {"app_config": app, "ansible_connection": "local"}
    role = {"role": "blueoctopus.site.app", "vars": variables}
    # Modules fail without the arguments. Check mode changes nothing on this computer.
    done = playbook({"app": [{"name": "Deploy", "hosts": "webservers", "roles": [role]}]}, "--check")
    assert done.returncode == 0, done.stdout
    for step in ("Lock", "Build", "Run the release command", "Start", "Switch nginx", "Watch", "Confirm", "Drain"):
        assert f"TASK [blueoctopus.site.app : {step}" in done.stdout, step
    # The Debian packages, which the app does not need; three tasks for balancers, and one for a canary.
    assert "skipped=5" in done.stdout, done.stdout


def test_webservers_and_balancers_offer_the_same_ciphers() -> None:
    read = {
        role: yaml.safe_load((PROJECT / f"roles/{role}/vars/main.yml").read_text()) for role in ("nginx", "balancer")
    }
    assert read["nginx"]["__nginx_ciphers"] == read["balancer"]["__balancer_ciphers"]
