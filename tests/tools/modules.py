"""Run modules in this process, with a program in place of systemctl. Its fixtures are those of conftest.py, too."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.blueoctopus.site.plugins.module_utils import instances, nginx, release_module
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import Lock
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases
from programs import find


def call(module: Any, check: bool = False, **args: Any) -> dict[str, Any]:
    """Run a module and return its result."""
    output = io.StringIO()
    with (
        patch_module_args({**args, "_ansible_check_mode": check, "_ansible_diff": True}),
        contextlib.redirect_stdout(output),
        pytest.raises(SystemExit),
    ):
        module.main()
    return dict(json.loads(output.getvalue()))


# --- systemd ----------------------------------------------------------------------------------------------------------


class Programs:
    """Programs in place of those that need systemd. They record their arguments.

    Args:
        folder: an empty folder, which is the first one of the search path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("systemctl", "journalctl"):
            self.add(name)

    def add(self, name: str, script: str = "") -> None:
        """Add a program: a shell script that is run after the arguments are recorded."""
        program = self.folder / name
        program.write_text(
            f'#!/bin/sh\necho "{name} $*" >> {self.folder}/log\n{script}\n'
            f'[ ! -e {self.folder}/{name}-"$1".out ] || cat {self.folder}/{name}-"$1".out\n'
            f'[ ! -e {self.folder}/{name}-"$1".fails ] || {{ echo "$1 failed" >&2; exit 3; }}\n'
        )
        program.chmod(0o755)

    def prints(self, command: str, text: str) -> None:
        """Set what a command prints, such as `systemctl is-active`."""
        (self.folder / f"{command.replace(' ', '-', 1)}.out").write_text(f"{text}\n")

    def fails(self, command: str, fails: bool = True) -> None:
        """Set whether a command fails."""
        mark = self.folder / f"{command.replace(' ', '-', 1)}.fails"
        if fails:
            mark.touch()
        else:
            mark.unlink()

    def calls(self, *commands: str) -> list[str]:
        """The calls since the last time; only those of some commands, if any are given."""
        log = self.folder / "log"
        calls = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [found for found in calls if not commands or found.startswith(commands)]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """The programs in place of systemctl and journalctl. Units are written to a folder of the test."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "units").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(instances, "UNITS", tmp_path / "units")
    return Programs(tmp_path / "bin")


# --- nginx ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def nginx_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A valid configuration of nginx with a folder of sites. The modules use it; nginx itself validates it."""
    root = tmp_path / "nginx"
    (root / "sites").mkdir(parents=True)
    (root / "nginx.conf").write_text(
        f"pid {tmp_path}/pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\n    access_log off;\n    client_body_temp_path {tmp_path}/body;\n    include sites/*.conf;\n}}\n"
    )
    monkeypatch.setattr(nginx, "NGINX", find("nginx"))
    for function in (nginx.check, nginx.reload, nginx.reload_pending):
        before = function.__defaults__ or ()
        monkeypatch.setattr(function, "__defaults__", (*before[:-1], root))
    return root


# --- the steps of a deploy --------------------------------------------------------------------------------------------


class Steps:
    """A host with an app and the modules that are the steps of a deploy.

    Args:
        store: the releases of the app.
        token: the token of the run that has the lock.
        units: the folder of systemd's units.
    """

    def __init__(self, store: Releases, token: str, units: Path) -> None:
        self.store, self.token, self.units = store, token, units

    def build(self, release: str, *units: str, **about: Any) -> str:
        """Create a complete release with a web service, further units and metadata."""
        folder = self.store.path(release)
        (folder / "units").mkdir(parents=True)
        for unit in ("shop@.socket", "shop@.service", *units):
            (folder / "units" / unit).write_text(f"# {unit}\n")
        (folder / "release.json").write_text(json.dumps({"health_timeout": 1, "drain_timeout": 0} | about))
        (folder / "site.conf").write_text(f"# site of {release}\n")
        return release

    def run(self, module: Any, release: str, check: bool = False, **args: Any) -> dict[str, Any]:
        """Run the module of a step."""
        common = {"name": self.store.name, "root": str(self.store.root), "token": self.token}
        return call(module, check, **common, release=release, **args)


@pytest.fixture
def steps(
    store: Releases, programs: Programs, nginx_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Steps:
    """An app whose lock this run has."""
    del programs
    own_store = functools.partial(Releases, sites=nginx_root / "sites")
    monkeypatch.setattr(release_module, "Releases", own_store)
    monkeypatch.setattr(release_module, "Lock", functools.partial(Lock, folder=tmp_path / "locks"))
    token = Lock(store.name, tmp_path / "locks").acquire("a test")
    return Steps(own_store(store.name, store.root), token, tmp_path / "units")


RELEASES = [f"2026010{n}T000000Z-{n:010x}" for n in (1, 2, 3, 4)]


@pytest.fixture
def four_releases(steps: Steps, programs: Programs) -> list[str]:
    """Good releases of the app, of which the last one is live; the units of all are installed."""
    for release in RELEASES:
        steps.store.make_live(steps.build(release, "shop.worker@.service"))
        steps.store.record("deploy", release, "ok")
        instances.Instance(steps.store, release).install()
    programs.calls()
    return RELEASES
