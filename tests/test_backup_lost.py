"""A lost host whose databases are restored from what its target has, with PostgreSQL and pgBackRest themselves."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import archived_cluster
import pytest
from archived_cluster import Cluster, Writer, rows, text_of
from backups.archive import Archive, shown
from backups.engine import Restic
from backups.moments import Moments
from backups.restoring import Restorer
from backups.saving import Saver
from backups.settings import BackupError, Settings
from backups.shipping import Shipper

pytestmark = [pytest.mark.needs("root", "restic", "initdb", "pgbackrest"), pytest.mark.slow]
cluster, chosen, folders = archived_cluster.cluster, archived_cluster.chosen, archived_cluster.folders
saver, restorer, shipper = archived_cluster.saver, archived_cluster.restorer, archived_cluster.shipper


def lose(cluster: Cluster) -> None:
    """Put a new, empty host in place of this one."""
    cluster.server.sql("DELETE FROM public.ticks", "shop")
    for folder in ("archive/main", "backup/main"):
        # Renamed first: the cluster may send WAL at this moment.
        gone = (cluster.archive.repository / folder).rename(cluster.archive.repository / f"{Path(folder).parent}.gone")
        shutil.rmtree(gone, ignore_errors=True)
    (cluster.archive.repository / "id").write_text("new\n")


def test_a_lost_host_is_restored_to_its_newest_state_without_a_time(
    saver: Saver, restorer: Restorer, shipper: Shipper, cluster: Cluster
) -> None:
    cluster.base()
    assert saver.run([]) == []
    here = restorer.prepare("shop", as_name="shop-here")
    assert "note" not in here.facts  # the end of the own archive is what is live
    writer = Writer()
    writer.write(5)
    time.sleep(2.5)  # archive_timeout
    assert shipper.once() == ""
    newest = cluster.archive.segments()[-1].time
    lose(cluster)
    plan = restorer.prepare("shop", as_name="shop-copy")
    assert rows(cluster.server, "shop-copy") == list(range(len(writer.committed)))
    assert plan.facts["note"].startswith(f"The database is that of {shown(newest)}. The archive ends there")


def test_a_lost_host_is_restored_from_its_dump_if_that_is_newer_but_not_if_the_archive_fails(
    saver: Saver, restorer: Restorer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.base()
    cluster.server.sql("INSERT INTO public.ticks VALUES (now(), 1)", "shop")
    cluster.server.sql("ALTER SYSTEM SET archive_command = 'false'")
    cluster.server.sql("SELECT pg_reload_conf()")
    time.sleep(1.1)
    assert saver.run([]) == []
    cluster.server.sql("ALTER SYSTEM RESET archive_command")
    cluster.server.sql("SELECT pg_reload_conf()")
    base = cluster.archive.segments()
    lose(cluster)
    plan = restorer.prepare("shop", as_name="shop-copy")
    assert rows(cluster.server, "shop-copy") == [1]
    assert plan.facts["note"] == (
        f"The database is that of the backup. The archive of PostgreSQL ends before it, at {shown(base[-1].time)}."
    )

    def fail(*_: Any) -> None:
        raise BackupError("It does not start.")

    monkeypatch.setattr(Moments, "cluster", fail)
    monkeypatch.setattr(Archive, "end", lambda *_: time.time())
    with pytest.raises(BackupError, match="It does not start"):  # it may be possible to correct that
        restorer.prepare("shop", as_name="shop-again")
    assert not cluster.server.exists("shop-again")


def test_an_archive_that_has_only_incomplete_backups_is_an_error_with_a_time_and_a_note_without_one(
    saver: Saver, restorer: Restorer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.base()
    mark = Saver.mark

    def mark_apps(restic: Restic, name: str, stamp: str, lacks: list[str]) -> None:
        if name == "shop":  # the run ends before it marks the archive
            mark(restic, name, stamp, lacks)

    monkeypatch.setattr(Saver, "mark", staticmethod(mark_apps))
    cluster.server.sql("INSERT INTO public.ticks VALUES (now(), 1)", "shop")
    assert saver.run([]) == []
    time.sleep(1.1)
    moment = text_of(datetime.now(UTC))
    lose(cluster)
    with pytest.raises(BackupError, match=r"only incomplete backups of the archive.*\n.*-e at='20"):
        restorer.prepare("shop", at=moment, as_name="shop-copy")
    plan = restorer.prepare("shop", as_name="shop-copy")
    assert rows(cluster.server, "shop-copy") == [1]
    assert "The database is that of the backup. The target disk has only incomplete" in plan.facts["note"]


def test_wal_that_was_sent_hours_later_is_restored(
    saver: Saver, restorer: Restorer, shipper: Shipper, cluster: Cluster, chosen: Settings
) -> None:
    cluster.base()
    assert saver.run([]) == []
    writer = Writer()
    writer.write(5)
    moment = datetime.now(UTC)
    cluster.server.sql("SELECT pg_switch_wal() FROM pg_current_xact_id()")
    time.sleep(2.5)  # archive_timeout
    assert shipper.once() == ""
    late = (moment + timedelta(hours=5)).strftime("%Y%m%dT%H%M%S.%fZ")  # as the target was down
    (sent,) = Path(f"{chosen.targets[0].repository}.wal").iterdir()
    sent.rename(sent.with_name(f"{sent.name[:32]}-{late}.tar"))
    lose(cluster)
    plan = restorer.prepare("shop", at=text_of(moment), as_name="shop-copy", target="disk")
    assert rows(cluster.server, "shop-copy") == list(range(len(writer.committed)))
    assert "The archive ends there" not in plan.facts["note"]


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
    lose(cluster)
    plan = restorer.prepare("shop", at=text_of(datetime.fromtimestamp(sent, UTC)), as_name="shop-copy", target="disk")
    assert rows(cluster.server, "shop-copy") == list(range(len(writer.committed)))
    assert "The archive ends there" in plan.facts["note"]
    other = replace(chosen, host="db1")
    assert Restorer(other, server=cluster.server, **folders).backups("disk", "db1")
