"""A cluster becomes a standby: what is copied, what is kept. The scenario `standby` does it with real servers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import postgresql
from ansible_collections.blueoctopus.site.plugins.module_utils.postgresql import PostgresqlError
from ansible_collections.blueoctopus.site.plugins.modules import postgresql_standby as module
from modules import Programs, call


class Hosts:
    """A primary, and this host with a cluster.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.data, self.config = folder / "lib/17/main", folder / "etc/17/main"
        self.log = folder / "log"
        self.system, self.primary, self.version = "1", "2", "17"
        self.timeline, self.position = "1", "0/9000000"  # of the primary
        self.own = {"timeline": "1", "position": "0/5000028"}
        self.in_standby = "off"  # of the primary
        self.databases = "0"  # of this host
        self.runs = True
        self.streaming: Callable[[], bool] = lambda: True
        self.commands: list[str] = []
        for path in (self.data, self.config):
            path.mkdir(parents=True)
        (self.data / "own").touch()

    def as_postgres(self, *argv: object) -> str:
        words = [str(word) for word in argv]
        if words[0].endswith("pg_basebackup"):
            new = Path(words[words.index("--pgdata") + 1])
            new.mkdir()
            (new / "copied").touch()
            self.system = self.primary
            return ""
        self.commands.append(words[-1])
        return {
            "IDENTIFY_SYSTEM": f"{self.primary}|{self.timeline}|{self.position}|",
            "SHOW server_version": f"{self.version}.4",
            "SHOW in_hot_standby": self.in_standby,
        }.get(words[-1], "")

    def control_data(self, *_args: object) -> dict[str, str]:
        return {
            "Database system identifier": self.system,
            "Latest checkpoint's TimeLineID": self.own["timeline"],
            "Min recovery ending loc's timeline": "0",
            "Latest checkpoint location": self.own["position"],
            "Minimum recovery ending location": "0/0",
            "max_connections setting": "150",
        }

    def psql(self, sql: str) -> str:
        if not self.runs and not self.is_copy:
            raise PostgresqlError("it does not answer")
        if sql == module.STREAMING:
            return str(int(self.streaming()))
        return self.databases if sql == module.OWN_DATABASES else ""

    @property
    def is_copy(self) -> bool:
        return (self.data / "copied").exists() and (self.data / "standby.signal").exists()

    @property
    def kept(self) -> list[Path]:
        return [path for path in self.data.parent.glob("main.*") if (path / "own").exists()]


@pytest.fixture
def hosts(tmp_path: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    """The hosts, in place of real servers."""
    programs.add("runuser")
    made = Hosts(tmp_path)
    (made.config / "conf.d").mkdir()
    (made.config / "conf.d/40-machine.conf").write_text("max_connections = 100\nwork_mem = 4MB\n")
    monkeypatch.setattr(postgresql, "CONFIG", tmp_path / "etc")
    for name, value in {
        "FOLDER": tmp_path / "standby",
        "DATA": tmp_path / "lib",
        "CONFIG": tmp_path / "etc",
        "STREAM_TIMEOUT": 0.1,
        "cluster_version": lambda: "17",
        "control_data": made.control_data,
        "as_postgres": made.as_postgres,
        "psql": made.psql,
    }.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(shutil, "chown", lambda *_args, **_options: None)
    real = module.Standby.__init__

    def init(self: Any, *args: Any) -> None:
        real(self, *args)
        self.log = made.log

    monkeypatch.setattr(module.Standby, "__init__", init)
    return made


def run(check: bool = False) -> dict[str, Any]:
    return call(module, check, primary="10.0.0.9", authority="PEM", password="secret-1", slot="standby_db2")


def test_a_new_cluster_is_replaced_by_a_copy(hosts: Hosts, tmp_path: Path) -> None:
    result = run()
    assert (result["changed"], result["copied"], result["kept"]) == (True, True, "")
    assert hosts.is_copy
    assert hosts.kept == []
    assert "CREATE_REPLICATION_SLOT standby_db2 PHYSICAL RESERVE_WAL" in hosts.commands
    settings = (hosts.config / "conf.d/60-standby.conf").read_text()
    assert "host=10.0.0.9" in settings
    assert "sslmode=verify-full" in settings
    assert "secret-1" not in settings
    assert (tmp_path / "standby/pgpass").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("runs", [True, False], ids=["that runs", "that was stopped by promote.yml"])
def test_a_cluster_with_databases_is_kept(hosts: Hosts, runs: bool) -> None:
    hosts.databases, hosts.runs = "1", runs
    (hosts.config / "start.conf").write_text("disabled\n")
    result = run()
    assert [str(path) for path in hosts.kept] == [result["kept"]]
    assert "/main.before-2" in result["kept"]
    assert hosts.is_copy
    assert (hosts.config / "start.conf").read_text() == "auto\n"


def test_a_standby_that_follows_is_not_copied_again(hosts: Hosts) -> None:
    run()
    hosts.commands.clear()
    result = run()
    assert (result["changed"], result["copied"]) == (False, False)
    assert not [command for command in hosts.commands if "SLOT" in command]


def test_a_standby_accepts_as_many_connections_as_its_primary(hosts: Hosts) -> None:
    run()
    assert (hosts.config / "conf.d/40-machine.conf").read_text() == "max_connections = 150\nwork_mem = 4MB\n"


def refused(hosts: Hosts) -> str:
    """Why the host is refused; its cluster stays as it was."""
    before = sorted(hosts.data.iterdir())
    result = run()
    assert result["failed"]
    assert sorted(hosts.data.iterdir()) == before
    assert [path.name for path in hosts.data.parent.iterdir()] == ["main"]
    return str(result["msg"])


def test_a_standby_of_a_host_that_was_installed_again_is_refused(hosts: Hosts) -> None:
    run()
    hosts.primary = "3"
    assert "it is a standby of another cluster" in refused(hosts)


def test_a_standby_that_is_ahead_of_an_old_image_of_its_primary_is_refused(hosts: Hosts) -> None:
    run()
    hosts.log.write_text('FATAL: replication slot "standby_db2" does not exist\n')
    hosts.streaming, hosts.own["position"] = (lambda: False), "0/A000000"
    assert "it has changes that the primary lacks" in refused(hosts)


def test_a_host_that_was_promoted_is_refused(hosts: Hosts) -> None:
    hosts.system, hosts.own["timeline"], hosts.databases = hosts.primary, "2", "1"
    assert "it was promoted after the primary was its primary" in refused(hosts)


def test_a_primary_that_is_a_standby_now_is_refused(hosts: Hosts) -> None:
    hosts.system, hosts.databases, hosts.in_standby = hosts.primary, "1", "on"  # an old inventory after a promotion
    assert "that host is itself a standby" in refused(hosts)


def test_without_the_credentials_of_this_run_those_of_before_stay(hosts: Hosts, tmp_path: Path) -> None:
    run()
    before = (tmp_path / "standby/pgpass").read_text()
    result = call(module, primary="10.0.0.9", authority="", password="", slot="standby_db2")
    assert "This run has not configured 10.0.0.9" in result["msg"]
    assert (tmp_path / "standby/pgpass").read_text() == before
    assert hosts.is_copy


def test_a_host_without_its_data_folder_is_copied(hosts: Hosts) -> None:
    run()
    shutil.rmtree(hosts.data)  # a power cut between the two renames
    hosts.runs = False
    assert run()["copied"]
    assert hosts.is_copy


def test_a_standby_that_lacks_removed_changes_is_copied_again_and_its_copy_is_not_kept(
    hosts: Hosts, programs: Programs
) -> None:
    run()
    hosts.log.write_text('FATAL: replication slot "standby_db2" does not exist\n')  # an old one
    assert not run()["copied"]
    programs.add("systemctl", f'[ "$1" != start ] || echo "WAL segment 1 has already been removed" >> {hosts.log}')
    answers = iter([False, False, False])
    hosts.streaming = lambda: next(answers, True)
    assert run()["copied"]
    assert [path.name for path in hosts.data.parent.iterdir()] == ["main"]


def test_a_copy_that_fails_leaves_the_cluster_as_it_was(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    real = hosts.as_postgres

    def fail(*argv: object) -> str:
        if str(argv[0]).endswith("pg_basebackup"):
            raise PostgresqlError("no space left on device")
        return real(*argv)

    monkeypatch.setattr(module, "as_postgres", fail)
    result = run()
    assert "This host can't be a standby of 10.0.0.9: no space left on device" in result["msg"]
    assert (hosts.data / "own").exists()


def test_another_major_version_is_refused_before_anything_is_copied(hosts: Hosts) -> None:
    hosts.version = "15"
    assert "The primary has PostgreSQL 15, and this host 17." in run()["msg"]
    assert (hosts.data / "own").exists()


def test_check_mode_changes_nothing(hosts: Hosts, tmp_path: Path) -> None:
    assert run(check=True)["changed"]
    assert (hosts.data / "own").exists()
    assert not (tmp_path / "standby").exists()
