"""Point-in-time recovery of the program `backup`, with PostgreSQL and pgBackRest themselves."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import archived_cluster
import pytest
from archived_cluster import BIN, Cluster, Writer, rows, text_of
from backups import archive, main
from backups.archive import DamagedPages, NoArchive, base_for, since
from backups.restoring import Restorer
from backups.saving import Saver
from backups.settings import BackupError, Settings
from backups.shipping import Log, Shipper
from backups.status import Status

pytestmark = [pytest.mark.needs("root", "restic", "initdb", "pgbackrest"), pytest.mark.slow]
cluster, chosen, folders = archived_cluster.cluster, archived_cluster.chosen, archived_cluster.folders
saver, restorer, shipper = archived_cluster.saver, archived_cluster.restorer, archived_cluster.shipper


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


def test_the_present_minute_is_restored_to_now_and_not_to_the_last_backup(
    saver: Saver, restorer: Restorer, cluster: Cluster
) -> None:
    cluster.base()
    assert saver.run([]) == []
    cluster.server.sql("INSERT INTO public.ticks VALUES (now(), 1)", "shop")
    minute = (datetime.now() + timedelta(minutes=1)).strftime("%Y-%m-%d %H:%M")
    with pytest.raises(BackupError, match=r"backup of 2.* before the time that was asked for, with the database of 2"):
        restorer.prepare("shop", at=minute)
    plan = restorer.prepare("shop", at=minute, as_name="shop-copy")
    assert rows(cluster.server, "shop-copy") == [1]
    assert "The backup is that of" in plan.facts["note"]
    assert "The database is that of" in plan.facts["note"]


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


def make_fixed_table(cluster: Cluster) -> Path:
    """Create a table that is on the disk, with checksums; return its file."""
    cluster.control("stop")
    cluster.archive.run(f"{BIN}/pg_checksums", "--enable", "--no-sync", f"--pgdata={cluster.folder}/data")
    cluster.control("--log", f"{cluster.folder}/log", "start")
    cluster.server.sql("CREATE TABLE public.fixed AS SELECT 7 AS n", "shop")
    cluster.server.sql("VACUUM (FREEZE) public.fixed", "shop")  # nothing writes its page again
    cluster.server.sql("CHECKPOINT")
    return cluster.folder / "data" / cluster.server.sql("SELECT pg_relation_filepath('public.fixed')", "shop")


@contextlib.contextmanager
def damaged(file: Path) -> Iterator[None]:
    """Damage a file of a table while the block runs. The server has read it before, and does not notice."""
    whole = file.read_bytes()
    file.write_bytes(whole[:-20] + b"\xff" * 20)
    yield
    file.write_bytes(whole)
    time.sleep(1.1)  # base backups have whole seconds


def use(cluster: Cluster, folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `backup base` use the cluster, as its user."""
    own = {"Archive": cluster.archive, "Server": cluster.server, "Status": Status(folders["state"]), "is_root": False}
    for name, value in own.items():
        monkeypatch.setattr(main, name, lambda value=value: value)


def test_a_base_backup_with_damaged_pages_is_not_restored_from_but_the_one_before_it(
    saver: Saver, restorer: Restorer, cluster: Cluster
) -> None:
    table = make_fixed_table(cluster)
    cluster.base()
    assert saver.run([]) == []
    with damaged(table):
        cluster.archive.pgbackrest("backup", f"--pg1-path={cluster.folder}/data", "--type=full")
    cluster.server.sql("INSERT INTO public.ticks VALUES (now(), 1)", "shop")
    for at, name in ((text_of(datetime.now(UTC)), "shop-copy"), ("2999-01-01", "shop-copy2")):
        restorer.prepare("shop", at=at, as_name=name)
        assert rows(cluster.server, name) == [1]
        assert cluster.server.sql("SELECT n FROM public.fixed", name) == "7"


def test_a_moment_that_only_damaged_base_backups_have_is_an_error(
    saver: Saver,
    restorer: Restorer,
    cluster: Cluster,
    folders: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(cluster, folders, monkeypatch)
    with damaged(make_fixed_table(cluster)):
        assert main.base() == 0
    assert "invalid page" in capsys.readouterr().err
    assert "damaged pages" in Status(folders["state"]).read()["archive"]["base_error"]
    assert saver.run([]) == []
    time.sleep(1.1)
    run = next(run for run in restorer.backups() if run.app == "shop")
    with pytest.raises(BackupError, match=r"only base backups with errors.*\n.*-e at='20") as caught:
        restorer.prepare("shop", at=text_of(datetime.now(UTC)), as_name="shop-copy")
    assert run.shown in str(caught.value)
    assert not cluster.server.exists("shop-copy")
    plan = restorer.prepare("shop", at=run.shown, as_name="shop-copy")
    assert "note" not in plan.facts


def test_a_damaged_base_backup_is_followed_by_another_one_a_day_later_and_its_error_stays_until_then(
    cluster: Cluster, folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(cluster, folders, monkeypatch)
    known = Status(folders["state"])
    with damaged(make_fixed_table(cluster)):
        for _hour in range(3):
            assert main.base() == 0
            assert "damaged pages" in known.read()["archive"]["base_error"]
            assert "damaged pages" in capsys.readouterr().err
        assert len(cluster.archive.all_bases()) == 1
    monkeypatch.setattr(archive, "BASE_EVERY", 0)
    assert main.base() == 0
    assert known.read()["archive"]["base_error"] == ""
    assert capsys.readouterr().out == "Done.\n"


def test_damaged_base_backups_replace_no_good_one_in_the_archive(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data = cluster.folder / "pgbackrest.conf", f"{cluster.folder}/data"
    config.write_text(re.sub("-type=time\n(.*full)=.*", r"-type=count\n\1=1", config.read_text()))  # days are too long
    monkeypatch.setattr(archive, "BASE_EVERY", 0)

    def labels() -> list[str]:
        return [base.label for base in cluster.archive.all_bases()]

    table = make_fixed_table(cluster)
    cluster.base()
    (good,) = cluster.archive.all_bases()
    monkeypatch.setattr(archive, "FULL_EVERY", 0)
    with damaged(table):
        for _day in range(3):
            with pytest.raises(DamagedPages, match="invalid page"):
                cluster.archive.back_up(data)
            # Of the damaged ones, only the newest uses the disk.
            assert labels()[:-1] == [good.label]
            assert cluster.archive.base(time.time()) == good
            numbers = [segment.number for segment in cluster.archive.segments()]
            assert numbers == list(range(good.start[1], numbers[-1] + 1))
    cluster.base()
    (new,) = cluster.archive.all_bases()
    assert not new.error
    assert cluster.archive.segments()[0].number >= new.start[1]


def test_base_backups_that_are_gone_are_not_those_since_which_every_moment_can_be_restored(
    shipper: Shipper, cluster: Cluster, folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(cluster, folders, monkeypatch)
    monkeypatch.setattr(archive, "BASE_EVERY", 0)
    known = Status(folders["state"])
    table = make_fixed_table(cluster)
    assert main.base() == 0
    time.sleep(1.1)  # base backups have whole seconds
    assert main.base() == 0
    full, diff = cluster.archive.bases()
    shipper.record("")
    assert known.read()["archive"]["since"] == full.stop
    cluster.archive.pgbackrest("expire", f"--set={diff.label}")
    with damaged(table):
        monkeypatch.setattr(archive, "FULL_EVERY", 0)
        assert main.base() == 0
    assert [one["label"] for one in known.read()["archive"]["bases"]] == [full.label]
    known.record("archive", bases=[*known.read()["archive"]["bases"], {**vars(diff), "stop": 1}])
    shipper.record("")  # while a base backup is deleted
    found = known.read()["archive"]
    assert (found["since"], found["gap"]) == (full.stop, None)


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
