"""Point-in-time recovery of the program `backup`, with PostgreSQL and pgBackRest themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from backups import restoring, saving, settings, units
from backups.archive import Archive, NoArchive, base_for, cipher, since
from backups.moments import Moments
from backups.postgres import Server
from backups.restoring import Restorer
from backups.saving import Saver
from backups.settings import App, BackupError, Settings, Target
from backups.shipping import Log, Shipper
from backups.status import Status
from programs import find

BIN = Path(find("initdb")).parent
pytestmark = [pytest.mark.needs("root", "restic", "initdb", "pgbackrest"), pytest.mark.slow]
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


def test_a_restore_to_a_second_has_all_rows_before_it_and_none_after(
    saver: Saver, restorer: Restorer, cluster: Cluster
) -> None:
    cluster.base()
    assert saver.run([]) == []
    writer = Writer()
    writer.write(30)
    second = datetime.fromtimestamp(int(writer.committed[len(writer.committed) // 2]), UTC)
    expected = [n for n, at in enumerate(writer.committed) if at <= second.timestamp()]
    assert 0 < len(expected) < len(writer.committed)
    plan = restorer.prepare("shop", at=text_of(second), as_name="shop-copy")
    found = rows(cluster.server, "shop-copy")
    # A row may have been committed some milliseconds before this process has noticed it.
    assert found in (expected, [*expected, len(expected)])
    times = cluster.server.sql("SELECT max(at) <= :'at' FROM public.ticks", "shop-copy", at=text_of(second))
    assert times == "t"
    assert "The database is that of" in plan.facts["note"]
    assert len(rows(cluster.server, "shop")) == len(writer.committed)
    assert cluster.server.named("other%") == ["other"]
    assert list((cluster.folder / "scratch").iterdir()) == []


def test_a_lost_host_is_restored_from_what_its_target_has(
    saver: Saver, restorer: Restorer, shipper: Shipper, cluster: Cluster, chosen: Settings, folders: dict[str, Any]
) -> None:
    cluster.base()
    assert saver.run([]) == []
    writer = Writer()
    writer.write(5)
    time.sleep(2.5)  # archive_timeout
    assert shipper.once() == ""
    sent = time.time()
    cluster.server.sql("DELETE FROM public.ticks", "shop")
    shutil.rmtree(cluster.archive.repository / "archive/main")
    shutil.rmtree(cluster.archive.repository / "backup/main")
    plan = restorer.prepare("shop", at=text_of(datetime.fromtimestamp(sent, UTC)), as_name="shop-copy", target="disk")
    assert rows(cluster.server, "shop-copy") == list(range(len(writer.committed)))
    assert "The archive ends before that moment" in plan.facts["note"]
    other = replace(chosen, host="db1")
    assert Restorer(other, server=cluster.server, **folders).backups("disk", "db1")


def test_the_time_of_a_backup_restores_its_dump(saver: Saver, restorer: Restorer, cluster: Cluster) -> None:
    cluster.base()
    saver.run([])
    run = next(run for run in restorer.backups() if run.app == "shop")
    plan = restorer.prepare("shop", at=run.shown, as_name="shop-copy")
    assert "note" not in plan.facts


def test_a_moment_that_is_not_archived_restores_the_backup_before_it_and_says_so(
    saver: Saver, restorer: Restorer, cluster: Cluster
) -> None:
    cluster.server.sql("INSERT INTO public.ticks VALUES (now(), 1)", "shop")
    assert "no archive" in saver.run([])[0]
    time.sleep(1.1)
    moment = datetime.now(UTC)
    time.sleep(0.1)
    cluster.base()
    plan = restorer.prepare("shop", at=text_of(moment), as_name="shop-copy")
    assert rows(cluster.server, "shop-copy") == [1]
    assert "The archive of PostgreSQL begins later" in plan.facts["note"]


def test_wal_that_was_sent_is_not_sent_again_and_the_status_tells_how_old_it_is(
    shipper: Shipper, saver: Saver, cluster: Cluster, folders: dict[str, Any]
) -> None:
    cluster.base()
    saver.run([])
    begun = int(time.time())
    assert shipper.once() == ""
    names = Log(shipper.engine).names()
    assert len(names) == 1
    assert shipper.once() == ""
    again = Shipper(shipper.engine, folders["state"], cluster.archive, cluster.server)
    assert again.once() == ""
    assert Log(shipper.engine).names() == names
    found = Status(folders["state"]).read()["archive"]
    assert found["targets"]["disk"]["time"] >= begun
    assert found["archived"] <= time.time()
    assert found["gap"] is None
    assert found["waits"] == ""


def test_a_target_that_is_down_is_recorded_and_gets_the_wal_later(
    shipper: Shipper, saver: Saver, cluster: Cluster, folders: dict[str, Any], chosen: Settings
) -> None:
    cluster.base()
    saver.run([])
    log = Path(f"{chosen.targets[0].repository}.wal")
    log.write_text("in the way")
    assert "exists" in shipper.once().lower()
    assert Status(folders["state"]).read()["archive"]["targets"]["disk"]["error"]
    log.unlink()
    assert shipper.once() == ""
    assert len(Log(shipper.engine).names()) == 1
    assert Status(folders["state"]).read()["archive"]["targets"]["disk"]["error"] == ""


def test_wal_that_postgresql_cannot_archive_is_reported(
    shipper: Shipper, saver: Saver, cluster: Cluster, folders: dict[str, Any]
) -> None:
    cluster.base()
    saver.run([])
    cluster.server.sql("ALTER SYSTEM SET archive_command = 'false'")
    cluster.server.sql("SELECT pg_reload_conf()")
    cluster.server.sql("SELECT pg_switch_wal() FROM pg_current_xact_id()")
    deadline = time.time() + 20
    while not Status(folders["state"]).read().get("archive", {}).get("waits") and time.time() < deadline:
        shipper.record("")
        time.sleep(0.5)
    assert len(Status(folders["state"]).read()["archive"]["waits"]) == 24


def test_missing_wal_is_an_error_and_leads_to_a_new_base_backup(cluster: Cluster) -> None:
    cluster.base()
    for _ in range(3):
        cluster.server.sql("SELECT pg_switch_wal() FROM pg_current_xact_id()")
    deadline = time.time() + 20
    while len(cluster.archive.segments()) < 4 and time.time() < deadline:
        time.sleep(0.2)
    assert not cluster.archive.back_up(f"{cluster.folder}/data")
    *_, lost, _last = cluster.archive.segments()
    (cluster.archive.repository / lost.path).unlink()
    with pytest.raises(NoArchive, match="WAL is missing"):
        base_for(time.time(), cluster.archive.bases(), cluster.archive.segments())
    cluster.base()
    assert since(cluster.archive.bases(), cluster.archive.segments()) == cluster.archive.bases()[-1].stop


def test_an_archive_that_was_off_gets_a_base_backup_when_it_is_configured_again(cluster: Cluster) -> None:
    cluster.base()
    assert not cluster.archive.back_up(f"{cluster.folder}/data")
    cluster.server.sql("ALTER SYSTEM SET archive_mode = off")
    cluster.control("--log", f"{cluster.folder}/log", "restart")
    cluster.server.sql("INSERT INTO public.ticks VALUES (now(), 1); SELECT pg_switch_wal()", "shop")
    cluster.server.sql("INSERT INTO public.ticks VALUES (now(), 2); SELECT pg_switch_wal()", "shop")
    cluster.server.sql("ALTER SYSTEM RESET archive_mode")
    cluster.control("--log", f"{cluster.folder}/log", "restart")
    assert cluster.archive.config
    time.sleep(1)  # base backups have whole seconds
    cluster.archive.config.touch()
    cluster.base()
    bases = cluster.archive.bases()
    assert base_for(bases[-1].stop, bases, cluster.archive.segments()) == bases[-1]
    assert not cluster.archive.back_up(f"{cluster.folder}/data")


def test_the_cluster_of_an_upgrade_gets_a_base_backup_at_once(cluster: Cluster) -> None:
    cluster.base()
    assert not cluster.archive.back_up(f"{cluster.folder}/data")
    cluster.control("stop")
    former = (cluster.folder / "data").rename(cluster.folder / "former")
    cluster.archive.run(f"{BIN}/initdb", f"--pgdata={cluster.folder}/data", "--auth=trust", "--no-sync")
    cluster.archive.run("cp", f"{former}/postgresql.conf", f"{cluster.folder}/data/postgresql.conf")
    cluster.control("--log", f"{cluster.folder}/log", "start")
    cluster.base()
    bases = cluster.archive.bases()
    assert [base.start[0].partition("/")[0][-2:] for base in bases] == ["-1", "-2"]
    assert base_for(time.time(), bases, cluster.archive.segments()) == bases[-1]


def test_too_little_space_is_an_error_before_anything_is_written(
    saver: Saver, restorer: Restorer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.base()
    saver.run([])
    time.sleep(1.1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**30, 2**30, 70 * 2**20))
    with pytest.raises(BackupError, match=r"needs \d+ MiB for the cluster, but .* has 70 MiB free"):
        restorer.prepare("shop", at=text_of(datetime.now(UTC)), as_name="shop-copy")
    assert list((cluster.folder / "scratch").iterdir()) == []
    assert not cluster.server.exists("shop-copy")
