"""A PostgreSQL server, and the modules that change it. Its fixtures are those of conftest.py, too."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import postgresql
from ansible_collections.blueoctopus.site.plugins.modules import postgresql_config, postgresql_databases
from modules import call
from programs import find

PROGRAMS = Path(find("initdb")).parent
Module = Callable[..., dict[str, Any]]
Test = TypeVar("Test", bound=Callable[..., None])
PORT = 20000 + os.getpid() % 10000


def needs_server(test: Test) -> Test:
    """Mark a test that runs a server."""
    return pytest.mark.slow(pytest.mark.needs("root", "initdb", "runuser")(test))


def as_superuser(*argv: object) -> subprocess.CompletedProcess[str]:
    """Run a program as the superuser of PostgreSQL."""
    return subprocess.run(["runuser", "-u", "postgres", "--", *map(str, argv)], cwd="/", capture_output=True, text=True)


@pytest.fixture(scope="session")
def postgresql_folder() -> Iterator[Path]:
    """A running server, without TCP; its socket and its data are in this folder, in the layout of Debian's package."""
    root = Path(f"/tmp/postgresql-test-{os.getpid()}")  # short, as the path of a socket is limited
    root.mkdir()
    shutil.chown(root, "postgres")
    root.chmod(0o755)
    made = as_superuser(PROGRAMS / "initdb", "-D", root / "data", "--auth=peer", "--encoding=SQL_ASCII", "--locale=C")
    assert made.returncode == 0, made.stderr
    cluster = root / "etc/99/main"
    (cluster / "conf.d").mkdir(parents=True)
    own = f"listen_addresses = ''\nport = {PORT}\nunix_socket_directories = '{root}'\n"
    own += f"hba_file = '{cluster}/pg_hba.conf'\n"
    with (root / "data/postgresql.conf").open("a") as config:
        config.write(f"{own}include_dir = '{cluster}/conf.d'\n")
    (cluster / "pg_hba.conf").write_text("local all all peer\n")
    try:
        control("start", root)
        yield root
    finally:
        control("stop", root)
        shutil.rmtree(root)


def control(action: str, root: Path) -> None:
    """Start, stop, reload or restart the server."""
    as_superuser(PROGRAMS / "pg_ctl", "-D", root / "data", "-w", "-m", "fast", "-l", root / "log", action)


@pytest.fixture
def postgresql_server(postgresql_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The server, as the one of this host."""
    monkeypatch.setattr(postgresql, "SOCKETS", postgresql_folder)
    monkeypatch.setattr(postgresql, "PORT", PORT)
    monkeypatch.setattr(postgresql_config, "CONFIG", postgresql_folder / "etc")
    for module in (postgresql_config, postgresql_databases):
        monkeypatch.setattr(module, "cluster_version", lambda: "99")

    def restart(self: postgresql_config.Server, action: str) -> None:
        control(action, postgresql_folder)
        if not self.answers:
            raise postgresql.PostgresqlError((postgresql_folder / "log").read_text()[-2000:])

    monkeypatch.setattr(postgresql_config.Server, "control", restart)
    return postgresql_folder


@pytest.fixture
def create_databases(postgresql_server: Path) -> Module:
    """Run postgresql_databases with the given entries."""

    def run(*entries: dict[str, Any], **args: Any) -> dict[str, Any]:
        passwords = str(postgresql_server / "passwords.json")
        return call(postgresql_databases, databases=list(entries), passwords=passwords, **args)

    return run


@pytest.fixture
def configure_postgresql(postgresql_server: Path) -> Module:  # noqa: ARG001
    """Run postgresql_config with the given settings, and by default without access over the network."""

    def run(settings: str, check: bool = False, hba: str = "local all all peer\n", **args: Any) -> dict[str, Any]:
        files = {"conf.d/50-site.conf": settings, "pg_hba.conf": hba}
        return call(postgresql_config, check, files=files, **args)

    return run
