"""Fixtures for deploys under load, on one or two machines: for the scenarios releases and fleet."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testing import PROJECT, Fleet, Machine, Run, Web

from benchmarks.load import Load, command, running

RELEASES = PROJECT / "molecule/releases"


@pytest.fixture
def load(machine: Machine) -> Callable[..., AbstractContextManager[Load]]:
    """Send GET and POST requests alternately to the site, as long as the context lasts.

    Each connection pauses for some milliseconds before each request, so that the load takes no time from other tests.
    """

    def loaded(connections: int = 4, pause: int = 60) -> AbstractContextManager[Load]:
        return running(command(f"http://{machine.web.address}/", connections, pause=pause, host="site.example"))

    return loaded


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A copy of the app's source, which a test can change."""
    return Path(shutil.copytree(RELEASES / "app", tmp_path / "shop", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture
def deploy(
    machine: Machine, play: Callable[..., Run], changed_app: Callable[..., list[str]], shop: Path
) -> Callable[..., Run]:
    """Deploy the source as a new version, with changed keys, to this machine or to the hosts of `limit`."""

    def run(
        content: str,
        *options: str,
        environment: dict[str, str] | None = None,
        app_environment: dict[str, str] | None = None,
        limit: str = machine.name,
        **keys: Any,
    ) -> Run:
        if app_environment is not None:
            keys["environment"] = app_environment
        (shop / "version.txt").write_text(f"{content}\n")
        inventory = changed_app("shop", **{"source": str(shop)} | keys)
        return play("deploy", *inventory, *options, environment=environment, limit=limit)

    return run


@pytest.fixture
def fleet(inventory: Path) -> Fleet:
    """Both machines of the scenario."""
    machines = []
    for name in ("debian13", "debian12"):
        host = testinfra.get_host(f"ansible://{name}", ansible_inventory=str(inventory))
        variables = host.ansible.get_variables()
        machines.append(Machine(name, host, variables, Web(variables["ansible_host"], 80)))
    return Fleet(machines)


def with_callback(name: str) -> dict[str, str]:
    """The environment for a run with a callback of the tests, beside those of ansible.cfg."""
    enabled = f"blueoctopus.site.packed_modules,{name}"
    return {"ANSIBLE_CALLBACK_PLUGINS": str(RELEASES / "callbacks"), "ANSIBLE_CALLBACKS_ENABLED": enabled}


@pytest.fixture
def at_task() -> Callable[[str, str], dict[str, str]]:
    """Run a command on the control node when a task begins; returns the environment for the run."""

    def environment(task: str, command: str) -> dict[str, str]:
        return with_callback("at_task") | {"AT_TASK": task, "AT_TASK_RUN": command}

    return environment
