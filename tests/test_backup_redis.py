"""The data of Redis in backups: the dump, a restore, a copy, the drill, and what can go wrong."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from backup_data import Make, replaced
from backups import main, redis
from backups.drill import Drill
from backups.restoring import Restorer
from backups.saving import Saver
from backups.settings import App, BackupError
from backups.status import Status

pytestmark = [pytest.mark.needs("redis-server", "restic"), pytest.mark.slow]


@dataclass
class Instance:
    """An instance of Redis for the app `shop`, as the role redis runs it: its folder, its socket, its persistence."""

    folder: Path
    socket: Path
    persistence: str

    def ask(self, *words: str) -> str:
        return subprocess.run(["redis-cli", "-s", self.socket, *words], capture_output=True, text=True).stdout.strip()

    def start(self) -> None:
        kept = ["--appendonly", "yes", "--save", "", "--dbfilename", "backup.rdb"]
        kept = kept if self.persistence == "aof" else ["--save", "3600 1"]
        place = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder), "--daemonize", "yes"]
        subprocess.run(["redis-server", *place, *kept], check=True, capture_output=True)
        deadline = time.monotonic() + 10
        while self.ask("PING") != "PONG":
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def stop(self) -> None:
        self.ask("SHUTDOWN")


@pytest.fixture(params=["aof", "rdb"])
def instance(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Instance]:
    """A running instance with a queue of two jobs."""
    monkeypatch.setattr(main, "is_root", lambda: False)  # there is no user of the app
    made = Instance(tmp_path / "redis/shop", tmp_path / "run/shop/redis.sock", request.param)
    for folder in (made.folder, made.socket.parent):
        folder.mkdir(parents=True)
    made.start()
    made.ask("RPUSH", "queue", "one", "two")
    yield made
    made.stop()


@pytest.fixture
def settings(instance: Instance, new_settings: Make) -> Any:
    return new_settings(
        apps=(App("shop", True, False, instance.persistence, str(instance.folder), str(instance.socket)),)
    )


def backed_up(settings: Any, folders: dict[str, Any]) -> list[str]:
    """Make a backup as the unit does; return what failed."""
    saver = Saver(settings, cache=None, **folders)
    main.dump_redis(settings.apps, Status(saver.state))
    return saver.run([])


def test_a_queue_is_restored_and_the_former_one_is_kept(
    instance: Instance, settings: Any, folders: dict[str, Any]
) -> None:
    assert backed_up(settings, folders) == []
    instance.ask("DEL", "queue")
    instance.ask("SET", "later", "1")
    restorer = Restorer(settings, **folders)
    plan = restorer.prepare("shop", replace=True)
    assert plan.facts["keys"] == 1
    instance.stop()
    for step in (restorer.stop, restorer.swap, restorer.start):
        step(plan)
    assert {path.stat().st_mode & 0o077 for path in (instance.folder, *instance.folder.rglob("*"))} == {0}
    instance.start()
    assert instance.ask("LRANGE", "queue", "0", "-1").split() == ["one", "two"]
    assert instance.ask("EXISTS", "later") == "0"
    instance.ask("RPUSH", "queue", "three")
    instance.stop()
    instance.start()  # it keeps what is written after the restore
    assert instance.ask("LLEN", "queue") == "3"
    former = instance.folder.with_name(f"shop.before-{plan.stamp}")
    assert str(former) in restorer.former("shop")
    restorer.delete_former("shop")
    assert [path.name for path in instance.folder.parent.iterdir()] == ["shop"]


def test_an_undo_returns_to_the_former_queue(instance: Instance, settings: Any, folders: dict[str, Any]) -> None:
    assert backed_up(settings, folders) == []
    instance.ask("RPUSH", "queue", "three")
    restorer = Restorer(settings, **folders)
    plan = restorer.prepare("shop", replace=True)
    instance.stop()
    restorer.swap(plan)
    restorer.undo(plan)
    instance.start()
    assert instance.ask("LLEN", "queue") == "3"
    undone = instance.folder.with_name(f"shop.undone-{plan.stamp}")
    assert sorted(path.name for path in instance.folder.parent.iterdir()) == ["shop", undone.name]


def test_a_copy_has_the_dump_and_the_live_queue_stays(
    instance: Instance, settings: Any, folders: dict[str, Any], data: Path
) -> None:
    assert backed_up(settings, folders) == []
    instance.ask("RPUSH", "queue", "three")
    restorer = Restorer(settings, **folders)
    restorer.prepare("shop", as_name="shop-copy")
    copy = data.parent.parent / "shop-copy"
    assert redis.check(copy / "redis/dump.rdb") == 1
    assert instance.ask("LLEN", "queue") == "3"
    assert [path.name for path in instance.folder.parent.iterdir()] == ["shop"]
    main.remove_copy("shop-copy", restorer)
    assert not copy.exists()


def test_the_drill_reads_the_dump_and_reports_a_damaged_one(
    settings: Any, folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert backed_up(settings, folders) == []
    chosen = {"settings": settings, **folders}
    assert Drill(**chosen).run([]) == []
    assert Status(folders["state"]).read()["drills"]["shop"]["keys"] == 1
    real = redis.check

    def damaged(path: Path) -> int:
        content = bytearray(path.read_bytes())
        content[-12] ^= 0xFF
        path.write_bytes(content)
        return real(path)

    monkeypatch.setattr(redis, "check", damaged)
    assert "can't read the data of Redis" in Drill(**chosen).run([])[0]


def test_an_instance_that_does_not_answer_is_reported_and_the_rest_is_saved(
    instance: Instance, settings: Any, folders: dict[str, Any], data: Path
) -> None:
    assert backed_up(settings, folders) == []
    instance.stop()
    (data / "uploads/a.txt").write_text("new")
    (failure,) = backed_up(settings, folders)
    assert "Its other data was saved, but not that in Redis" in failure
    assert Status(folders["state"]).read()["backups"]["shop"]["disk"]["error"]
    instance.start()
    plan = replaced(Restorer(settings, **folders))
    assert (data / "uploads/a.txt").read_text() == "new"
    assert "has no data of Redis" in plan.facts["note"]
    assert instance.ask("LLEN", "queue") == "2"


def test_a_dump_of_an_earlier_run_is_not_taken_for_one_of_this_run(
    settings: Any, folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert backed_up(settings, folders) == []
    monkeypatch.setenv("INVOCATION_ID", "another")
    assert "was not asked for its data" in Saver(settings, cache=None, **folders).run([])[0]


def test_a_dump_that_is_a_link_is_neither_saved_nor_restored(
    instance: Instance, settings: Any, folders: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    assert backed_up(settings, folders) == []
    dump = redis.dump_of(settings.apps[0])
    dump.unlink()
    dump.symlink_to(secret)
    assert "is missing" in Saver(settings, cache=None, **folders).run([])[0]
    monkeypatch.setattr(redis, "problem", lambda *_: "")  # it became a link later
    time.sleep(1.1)
    assert Saver(settings, cache=None, **folders).run([]) == []
    with pytest.raises(BackupError, match="has a link or a device at"):
        Restorer(settings, **folders).prepare("shop", replace=True)
    assert [path.name for path in instance.folder.parent.iterdir()] == ["shop"]


@pytest.mark.needs("root")
def test_a_dump_of_a_newer_version_is_refused_before_anything_is_changed(
    instance: Instance, settings: Any, folders: dict[str, Any], data: Path
) -> None:
    real = redis.dump_of(settings.apps[0])
    assert backed_up(settings, folders) == []
    real.write_bytes(b"REDIS0099" + real.read_bytes()[9:])
    time.sleep(1.1)
    assert Saver(settings, cache=None, **folders).run([]) == []
    with pytest.raises(BackupError, match="Can't handle RDB format version 99"):
        Restorer(settings, **folders).prepare("shop", replace=True)
    assert [path.name for path in data.parent.iterdir()] == ["data"]
    assert os.listdir(instance.folder.parent) == ["shop"]
