"""A running cluster of PostgreSQL whose WAL pgBackRest archives, and the program `backup` with a target in a folder.

A test module takes these fixtures as attributes of its own: others of the same names are those of a folder of data.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from backups import restoring, saving, settings, units
from backups.archive import Archive, cipher
from backups.moments import Moments
from backups.postgres import Server
from backups.restoring import Restorer
from backups.saving import Saver
from backups.settings import App, Settings, Target
from backups.shipping import Shipper
from programs import find

BIN = Path(find("initdb")).parent
ROLES = """
CREATE ROLE shop LOGIN;
CREATE ROLE other LOGIN;
CREATE ROLE backups LOGIN BYPASSRLS IN ROLE pg_read_all_data;
CREATE ROLE "backups-restore" LOGIN CREATEDB;
"""
Render = Callable[..., str]


@dataclass
class Cluster:
    """A running cluster whose WAL is archived."""

    folder: Path
    server: Server
    archive: Archive

    def control(self, *argv: str) -> None:
        self.archive.run(f"{BIN}/pg_ctl", "--pgdata", f"{self.folder}/data", "--wait", *argv)

    def base(self) -> None:
        assert self.archive.back_up(f"{self.folder}/data")


@pytest.fixture
def cluster(render: Render) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="cluster-", dir="/tmp"))
    shutil.chown(folder, "postgres")
    folder.chmod(0o755)
    config = folder / "pgbackrest.conf"
    archive = Archive(folder / "repository", config)
    made = Cluster(folder, Server(role="postgres"), archive)
    text = render("backup", "pgbackrest.conf.j2", backup_point_in_time_queue=1024, __backup_cipher=cipher("squid-ink"))
    config.write_text(f"{text}\n[main]\npg1-socket-path={folder}\n".replace("/run/pgbackrest", f"{folder}/lock"))
    archive.run("mkdir", str(archive.repository))
    archive.run(f"{BIN}/initdb", f"--pgdata={folder}/data", "--auth=trust", "--no-sync", "--locale=C.UTF-8")
    push = f'pgbackrest --config={config} --repo1-path={archive.repository} --stanza=main --pg1-path="$PWD"'
    values = {
        "listen_addresses": "",
        "unix_socket_directories": str(folder),
        "fsync": "off",
        "archive_mode": "on",
        "archive_timeout": "2",
        "archive_command": f'{push} archive-push "%p"',
    }
    with (folder / "data/postgresql.conf").open("a") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in values.items())
    before = os.environ.get("PGHOST")
    try:
        made.control("--log", f"{folder}/log", "start")
        os.environ["PGHOST"] = str(folder)
        made.server.sql(ROLES)
        made.server.create("shop", "shop")
        made.server.let_connect("shop", "backups")
        made.server.sql("SET ROLE shop; CREATE TABLE public.ticks (at timestamptz, n int)", "shop")
        made.server.create("other", "other")
        yield made
    finally:
        os.environ.pop("PGHOST", None)
        if before:
            os.environ["PGHOST"] = before
        if (folder / "data/postmaster.pid").exists():
            made.control("--mode=immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def folders(tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for module in (settings, saving, restoring):
        monkeypatch.setattr(module, "APPS", tmp_path / "srv")
    monkeypatch.setattr(units, "systemctl", lambda *_: "")
    monkeypatch.setattr(saving, "Server", lambda: Server(role="backups"))
    monkeypatch.setattr(
        saving, "dump_command", lambda name: ["pg_dump", "--format=custom", f"--dbname={name}", "-Ubackups"]
    )
    scratch = cluster.folder / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(restoring, "Moments", lambda server: Moments(server, cluster.archive, scratch))
    for folder in ("etc", "state", "state/shared"):
        (tmp_path / folder).mkdir()
    (tmp_path / "etc/password").write_text("squid-ink\n")
    return {"state": tmp_path / "state", "config": tmp_path / "etc"}


@pytest.fixture
def chosen(tmp_path: Path) -> Settings:
    targets = (Target("disk", str(tmp_path / "repository")),)
    return Settings("db1", (App("shop", data=False, database=True),), targets, point_in_time=True)


@pytest.fixture
def saver(chosen: Settings, folders: dict[str, Any], cluster: Cluster) -> Saver:
    return Saver(chosen, cache=None, archive=cluster.archive, **folders)


@pytest.fixture
def restorer(chosen: Settings, folders: dict[str, Any], cluster: Cluster) -> Restorer:
    return Restorer(chosen, server=cluster.server, loader=Server(role="backups-restore"), **folders)


@pytest.fixture
def shipper(saver: Saver, chosen: Settings, folders: dict[str, Any], cluster: Cluster) -> Shipper:
    return Shipper(saver.engine(chosen.targets[0]), folders["state"], cluster.archive, cluster.server)


class Writer(threading.Thread):
    """Writes a row each 100 ms, and keeps when each one was committed."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()
        self.committed: list[float] = []

    def run(self) -> None:
        psql = ["psql", "--username=shop", "--no-psqlrc", "--quiet", "--dbname=shop"]
        with subprocess.Popen(psql, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin
            assert process.stdout
            while not self.ended.wait(0.1):  # the computer may be busy, so that it takes longer
                process.stdin.write(f"INSERT INTO ticks VALUES (clock_timestamp(), {len(self.committed)});\n\\echo x\n")
                process.stdin.flush()
                process.stdout.readline()
                self.committed.append(time.time())

    def write(self, count: int) -> None:
        self.start()
        while len(self.committed) < count:
            time.sleep(0.1)
        self.ended.set()
        self.join()


def text_of(moment: datetime) -> str:
    return moment.astimezone().isoformat(sep=" ")


def rows(server: Server, name: str) -> list[int]:
    return [int(n) for n in server.sql("SELECT n FROM public.ticks ORDER BY n", name).splitlines()]
