"""Fixtures for the tests of all scenarios. A test that uses `machine` runs once for each of its `testinfra_hosts`."""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml
from testinfra.host import Host
from testing import PROJECT, Door, Machine, Run, Web, run_playbook


def machine_of(item: pytest.Item) -> str:
    """The machine that a test runs on; "" if it needs none."""
    found = re.search(r"\[ansible://([\w.]+)", item.name)
    return found[1] if found else ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect a test with the mark `on` on all machines but the one that the mark names."""
    named = {item: str(mark.args[0]) for item in items if (mark := item.get_closest_marker("on"))}
    if unknown := set(named.values()) - {machine_of(item) for item in items}:
        raise pytest.UsageError(f"The mark on() names machines that these tests do not have: {', '.join(unknown)}")
    left_out = [item for item, machine in named.items() if machine_of(item) != machine]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture
def inventory(request: pytest.FixtureRequest) -> Path:
    """The inventory of the scenario."""
    return Path(request.config.option.ansible_inventory).resolve()


@pytest.fixture
def door(host: Host) -> Door:
    """The login to the machine of this test after the first run: as the administrator, on the configured port."""
    return Door(host.ansible.get_variables())


@pytest.fixture
def machine(host: Host, door: Door) -> Machine:
    """The machine of this test."""
    variables = host.ansible.get_variables()
    if "ssh_port" in variables:
        options = " ".join([*door.options, "-i", door.key])
        host = testinfra.get_host(f"ssh://{door.user}@{door.address}:{door.port}", ssh_extra_args=options)
    web = Web(variables["ansible_host"], variables.get("nginx_http_port", 80))
    return Machine(variables["inventory_hostname"], host, variables, web)


@pytest.fixture
def running(machine: Machine) -> Callable[[str], list[str]]:
    """List the running service units of an app, one for each instance."""

    def units(app: str) -> list[str]:
        shown = machine.host.check_output(f"systemctl list-units --plain --no-legend '{app}@*.service'")
        return [line.split()[0] for line in shown.splitlines()]

    return units


@pytest.fixture
def echo(machine: Machine) -> Web:
    """The second app of the machine."""
    return Web(machine.web.address, machine.web.port, machine.variables["echo_domain"])


@pytest.fixture
def play(machine: Machine, inventory: Path) -> Callable[..., Run]:
    """Run a playbook like a user does, on this machine only unless `limit` is given."""

    return functools.partial(run_playbook, inventory, limit=machine.name)


@pytest.fixture
def changed_app(inventory: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Change keys of an app in the inventory; returns the options for `play`."""

    def change(name: str, **keys: Any) -> list[str]:
        group_vars = yaml.safe_load((inventory / "group_vars/webservers.yml").read_text())
        for app in group_vars["apps"]:
            if app["name"] == name:
                app.update(keys)
        extra = tmp_path / "changed.yml"
        extra.write_text(yaml.safe_dump(group_vars))
        return ["-e", f"@{extra}"]

    return change


@pytest.fixture
def copy_of_app(tmp_path: Path) -> Path:
    """A copy of the project's own app, which a test can change."""
    return Path(shutil.copytree(PROJECT / "app", tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture(autouse=True)
def journal_on_failure(request: pytest.FixtureRequest) -> Iterator[None]:
    """Print the last lines of the machine's journal when a test fails."""
    failed_before = request.session.testsfailed
    host = request.getfixturevalue("machine").host if "machine" in request.fixturenames else None
    yield
    if request.session.testsfailed > failed_before and host:
        with host.sudo():
            print(host.run("journalctl --no-pager --lines=40 --output=short").stdout)
