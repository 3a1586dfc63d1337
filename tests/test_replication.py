"""The replication of a host, as a real primary and its standby tell it, and as the alerts and metrics read it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.blueoctopus.site.plugins.filter.programs import PACKAGE, program_files
from ansible_collections.blueoctopus.site.plugins.module_utils import (
    alerts,
    host_state,
    metrics,
    postgresql,
    replication,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.checks import find_problems
from ansible_collections.blueoctopus.site.plugins.modules import host_status
from modules import call
from postgresql_server import PORT, PROGRAMS, as_superuser, needs_server
from status_examples import NOW, PROJECT
from status_examples import replication as example

VERSION = "99"
QUICK = "wal_receiver_status_interval = 1s\nwal_retrieve_retry_interval = 200ms\nautovacuum = off\n"


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


class Host:
    """A host with a cluster, in folders like those of Debian's package."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.data, self.config = folder / "data" / VERSION / "main", folder / "etc" / VERSION / "main"
        (self.config / "conf.d").mkdir(parents=True)
        self.data.parent.mkdir(parents=True)
        (self.config / "start.conf").write_text("# Automatic startup: auto, manual or disabled\nauto # as usual\n")
        (self.config / "pg_hba.conf").write_text("local all all peer\nlocal replication all peer\n")
        shutil.chown(folder, "postgres")
        shutil.chown(self.data.parent, "postgres")

    def control(self, *action: str) -> None:
        """Start or stop the server."""
        settings = f"-k {self.folder} -p {PORT} -c listen_addresses= -c hba_file={self.config}/pg_hba.conf"
        log = self.folder / "log"
        command = ["-D", self.data, "-w", "-m", "fast", "-l", log, "-o", settings, *action]
        done = as_superuser(PROGRAMS / "pg_ctl", *command)
        assert done.returncode == 0, done.stderr + done.stdout + (log.read_text() if log.exists() else "")

    def sql(self, text: str) -> str:
        """Run a statement on this host."""
        self.monkeypatch.setattr(postgresql, "SOCKETS", self.folder)
        self.monkeypatch.setattr(postgresql, "PORT", PORT)
        return postgresql.psql(text)

    def describe(self) -> dict[str, Any] | None:
        """The replication of this host."""
        self.monkeypatch.setattr(postgresql, "SOCKETS", self.folder)
        self.monkeypatch.setattr(postgresql, "PORT", PORT)
        return replication.describe_replication(self.config.parents[1], self.data.parents[1])

    def found(self) -> dict[str, Any]:
        """The replication of this host, which has one."""
        described = self.describe()
        assert described is not None
        return described


@pytest.fixture
def primary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A server without replication."""
    root = Path(f"/tmp/replication-test-{os.getpid()}")  # short, as the path of a socket is limited
    root.mkdir()
    root.chmod(0o755)
    (root / "db1").mkdir()
    new = Host(root / "db1", monkeypatch)
    made = as_superuser(PROGRAMS / "initdb", "-D", new.data, "--auth=peer", "--locale=C", "--no-sync")
    assert made.returncode == 0, made.stderr
    with (new.data / "postgresql.conf").open("a") as settings:
        settings.write(QUICK)
    try:
        new.control("start")
        yield new
    finally:
        for name in ("db1", "db2"):
            as_superuser(PROGRAMS / "pg_ctl", "-D", root / name / "data" / VERSION / "main", "-m", "immediate", "stop")
        shutil.rmtree(root)


def make_standby(primary: Host) -> Host:
    """A standby of a primary that has its slot."""
    folder = primary.folder.parent / "db2"
    folder.mkdir()
    new = Host(folder, primary.monkeypatch)
    address = f"host={primary.folder} port={PORT} application_name=standby_db2"
    command = ["-d", address, "-D", new.data, "--write-recovery-conf", "--slot=standby_db2", "--no-sync"]
    copied = as_superuser(PROGRAMS / "pg_basebackup", *command, "--checkpoint=fast")
    assert copied.returncode == 0, copied.stderr
    (new.config / replication.STANDBY).write_text("# a standby\n")
    new.control("start")
    return new


@needs_server
def test_a_host_without_replication_is_not_asked(primary: Host) -> None:
    primary.monkeypatch.setattr(replication, "psql", lambda _: pytest.fail("asked"))
    assert primary.describe() is None
    assert replication.describe_replication(primary.folder / "none", primary.folder / "none") is None


@needs_server
def test_a_primary_and_its_standby_tell_their_state_from_the_slot_to_the_promotion(primary: Host) -> None:
    primary.sql("SELECT pg_create_physical_replication_slot('standby_db2')")
    primary.sql("SELECT pg_create_physical_replication_slot('other')")
    gone = {"name": "standby_db2", "state": "not connected", "lag_bytes": None}
    assert primary.describe() == example(standbys=[gone])

    standby = make_standby(primary)
    wait_for(lambda: primary.found()["standbys"][0]["state"] == "streaming")
    wait_for(lambda: standby.found()["lag_seconds"] == 0)
    assert standby.describe() == example("standby")
    wait_for(lambda: primary.describe() == example())

    standby.sql("SELECT pg_wal_replay_pause()")
    primary.sql("CREATE TABLE public.late ()")
    wait_for(lambda: standby.found()["lag_seconds"] > 0)  # it has replayed no transaction since its start
    wait_for(lambda: primary.found()["standbys"][0]["lag_bytes"] > 0)
    assert standby.found()["connected"] is True
    standby.sql("SELECT pg_wal_replay_resume()")
    wait_for(lambda: standby.found()["lag_seconds"] == 0)

    standby.control("stop")
    down = standby.found()
    assert (down["role"], down["connected"], down["lag_seconds"]) == ("standby", None, None)
    assert down["problem"].startswith("PostgreSQL does not answer: psql: error: connection to server on socket ")
    wait_for(lambda: primary.found()["standbys"][0]["state"] == "not connected")
    primary.sql("CREATE TABLE public.missed ()")
    assert primary.found()["standbys"][0]["lag_bytes"] > 0
    time.sleep(1)
    standby.control("start")
    wait_for(lambda: primary.describe() == example())

    primary.control("stop")
    wait_for(lambda: standby.found()["connected"] is False)
    lag = standby.found()["lag_seconds"]  # since the last transaction, which is older than the start
    assert lag > float(standby.sql("SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())"))
    assert (primary.found()["role"], primary.found()["standbys"]) == ("primary", [])
    assert "does not answer" in primary.found()["problem"]

    standby.control("promote")
    assert standby.describe() == example(standbys=[])  # its files still have 60-standby.conf


@needs_server
def test_a_former_primary_is_fenced_by_its_start_conf(primary: Host) -> None:
    (primary.config / "start.conf").write_text("# auto\ndisabled  # fenced\n")
    assert primary.describe() == example("fenced", problem="its server must not run any more, and still runs")
    primary.control("stop")
    assert primary.describe() == example("fenced")
    (primary.config / "start.conf").write_text("# disabled\nauto\n")
    assert primary.describe() is None


@needs_server
def test_a_copy_in_progress_is_no_connected_standby(primary: Host) -> None:
    primary.sql("SELECT pg_create_physical_replication_slot('standby_db2')")
    command = ["-h", primary.folder, "-p", PORT, "-D", primary.folder, "--slot=standby_db2", "--no-loop"]
    receiver = subprocess.Popen(["runuser", "-u", "postgres", "--", *map(str, [PROGRAMS / "pg_receivewal", *command])])
    try:
        wait_for(lambda: primary.sql("SELECT active FROM pg_replication_slots") == "t")
        assert primary.found()["standbys"][0]["state"] == "not connected"
    finally:
        receiver.terminate()
        receiver.wait()


def test_a_standby_that_is_ahead_is_not_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the primary may be ahead, and its position in the WAL is read before that of the standby."""
    (tmp_path / VERSION / "main/pg_replslot/standby_db2").mkdir(parents=True)
    answer = {"is_standby": False, "standbys": [{"name": "standby_db2", "state": "streaming", "lag_bytes": -8}]}
    monkeypatch.setattr(replication, "psql", lambda _: json.dumps(answer))
    assert replication.describe_replication(tmp_path, tmp_path) == example()
    answer |= {"is_standby": True, "connected": True, "is_replayed": False, "age": -1.5}
    assert replication.describe_replication(tmp_path, tmp_path) == example("standby")


# --- who reads it -----------------------------------------------------------------------------------------------------


def test_of_several_clusters_the_one_with_the_port_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("15", "17"):
        (tmp_path / version / "main").mkdir(parents=True)
    (tmp_path / "15/main/start.conf").write_text("disabled\n")
    monkeypatch.setattr(replication, "psql", lambda _: "no JSON")
    monkeypatch.setattr(replication, "cluster_version", lambda: "17")
    assert replication.describe_replication(tmp_path, tmp_path) is None
    monkeypatch.setattr(replication, "cluster_version", lambda: "15")
    assert replication.describe_replication(tmp_path, tmp_path) == example("fenced")
    monkeypatch.setattr(replication, "cluster_version", lambda: "")
    assert replication.describe_replication(tmp_path, tmp_path) is None


@pytest.mark.usefixtures("programs")
def test_the_status_of_a_host_has_its_replication_and_the_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_state, "UPDATES", tmp_path / "kept.json")
    monkeypatch.setattr(host_status, "describe_replication", lambda: example("fenced"))
    found = call(host_status, apps=[])["host"]
    assert found["replication"] == example("fenced")
    assert "fenced" in [problem["subject"] for problem in found["problems"]]


@pytest.mark.usefixtures("programs")
def test_the_alerts_of_a_host_and_its_metrics_have_what_root_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (alerts, metrics):
        monkeypatch.setattr(module, "REPLICATION", tmp_path / "status.json")
    monkeypatch.setattr(metrics, "FOLDER", tmp_path / "run")

    def measured(found: dict[str, Any] | None) -> tuple[list[str], bool]:
        (tmp_path / "status.json").write_text(json.dumps(found))
        problems = find_problems(alerts.measure([], NOW), NOW)
        metrics.main()
        lines = (tmp_path / "run/site.prom").read_text().splitlines()
        subjects = [problem["subject"] for problem in problems if problem["kind"] == "replication"]
        return subjects, "host_replication_connected 0" in lines

    assert measured(example("standby", connected=False)) == (["primary"], True)
    assert measured(example("standby")) == ([], False)
    assert measured(None) == ([], False)


@pytest.mark.parametrize("role", ["alert", "metrics"])
def test_root_writes_the_replication_where_the_program_of_a_role_reads_it(
    render: Callable[..., str], tmp_path: Path, role: str
) -> None:
    paths = {"alert": alerts.REPLICATION, "metrics": metrics.REPLICATION}
    assert "replication" not in render(role, f"{role}.service.j2")
    unit = render(role, f"{role}.service.j2", **{f"{role}_postgresql": True})
    (line,) = [line for line in unit.splitlines() if "replication" in line and line.startswith("ExecStart")]
    command = f"/usr/bin/python3 -I /usr/local/lib/{role}-replication {paths[role]}"
    assert line == f"ExecStartPre=+{command}"  # with the rights of root, and without the sandbox
    for name, content in program_files("replication", f"/usr/local/lib/{role}-replication").items():
        path = tmp_path / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (code,) = (tmp_path / f"usr/local/lib/{role}-replication").glob(f"{PACKAGE.replace('.', '/')}/postgresql.py")
    code.write_text(code.read_text().replace('"/etc/postgresql"', f'"{tmp_path}/etc"'))
    (tmp_path / "etc/17/main").mkdir(parents=True)
    (tmp_path / "etc/17/main/start.conf").write_text("disabled\n")
    command = command.replace(" /", f" {tmp_path}/").replace(f"{tmp_path}/usr/bin", "/usr/bin")
    subprocess.run(command.split(), check=True, umask=0o077, env={"PATH": os.environ["PATH"]})
    written = tmp_path / str(paths[role]).lstrip("/")
    assert json.loads(written.read_text())["role"] == "fenced"
    assert [oct(path.stat().st_mode & 0o777) for path in (written.parent, written)] == ["0o755", "0o644"]


@pytest.mark.parametrize("role", ["alert", "metrics"])
def test_only_hosts_with_databases_get_that_program(evaluate: Callable[..., Any], role: str) -> None:
    def installed(has_cluster: bool) -> set[str]:
        values = {f"{role}_postgresql": has_cluster, "lookup": lambda *_: ""}
        files = evaluate(role, f"__{role}_files", **values)
        return {path for path in files if path.startswith(f"/usr/local/lib/{role}-replication/")}

    assert installed(False) == set()
    assert installed(True) == set(program_files("replication", f"/usr/local/lib/{role}-replication"))
    plays = yaml.safe_load((PROJECT / "playbooks/provision.yml").read_text())
    (task,) = [task for play in plays for task in play.get("tasks", []) if task["name"] == "Send alerts"]
    assert task["vars"]["alert_postgresql"] == "{{ databases | length > 0 }}"
