"""The archive of PostgreSQL: its gaps, its status, and the command that archives WAL. No server is started."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.filter.backups import archives_wal
from ansible_collections.blueoctopus.site.plugins.module_utils import backup_status
from backups import main, runs
from backups.archive import Archive, Base, NoArchive, OnlyIncomplete, Segment, base_for, position, since
from backups.engine import Snapshot
from backups.moments import Moments, choose
from backups.postgres import Server
from backups.runs import Run
from backups.settings import BackupError, Target
from backups.status import Status

HOUR = 3600
MAX_AGE = {"backup": 50, "check": 340, "drill": 340}
BASES = [Base("F", ("17-1/00000001", 5), 100, 1), Base("D", ("17-1/00000001", 8), 200, 1)]
Render = Callable[..., str]


def segments(*numbers: int, timeline: str = "17-1/00000001") -> list[Segment]:
    """Segments, of which each was archived 20 seconds after the one before."""
    return [Segment(f"{number}", timeline, number, number * 20) for number in numbers]


def test_the_position_of_a_segment_counts_over_the_end_of_a_log() -> None:
    assert position("17-1", "0000000100000000000000FF") == ("17-1/00000001", 255)
    assert position("17-1", "000000010000000100000000") == ("17-1/00000001", 256)


def test_a_moment_is_restored_from_the_newest_base_backup_before_it() -> None:
    assert base_for(150, BASES, segments(5, 6, 7, 8)).label == "F"
    assert base_for(300, BASES, segments(5, 6, 7, 8)).label == "D"
    with pytest.raises(NoArchive, match="begins later"):
        base_for(99, BASES, segments(5, 6, 7, 8))


def test_moments_after_missing_wal_are_refused_and_those_before_it_are_not() -> None:
    left = segments(5, 6, 8, 9)
    assert base_for(110, BASES, left).label == "F"
    with pytest.raises(NoArchive, match="WAL is missing"):
        base_for(150, BASES, left)
    assert base_for(210, BASES, left).label == "D"
    assert since(BASES, left) == 200
    assert since(BASES, segments(5, 6, 7, 8)) == 100
    assert since(BASES, segments(5, 6, 7, 8) + segments(6, 20, timeline="18-2/00000001")) == 100
    assert since([], left) is None


def test_a_base_backup_without_its_first_wal_is_of_no_use() -> None:
    for left in (segments(6, 7, 8, 9), segments(5, 6, timeline="18-2/00000001"), []):
        with pytest.raises(NoArchive, match="WAL is missing"):
            base_for(100, BASES[:1], left)
    assert base_for(300, BASES, segments(6, 7, 8, 9)).label == "D"
    assert since(BASES, segments(6, 7, 8, 9)) == 200
    assert since(BASES, segments(9)) is None


def test_a_base_backup_with_an_error_is_not_restored_from() -> None:
    damaged = [BASES[0], replace(BASES[1], error=True)]
    assert base_for(300, damaged, segments(5, 6, 7, 8)).label == "F"
    assert base_for(150, damaged, segments(5, 6, 7, 8)).label == "F"
    with pytest.raises(OnlyIncomplete, match="only base backups with errors"):
        base_for(300, damaged[1:], segments(5, 6, 7, 8))
    with pytest.raises(NoArchive, match="WAL is missing"):
        base_for(300, damaged, segments(5, 8))


def test_a_base_backup_that_refers_to_one_with_an_error_has_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def base(label: str, error: bool, *reference: str) -> dict[str, Any]:
        facts = {"archive": {"start": "000000010000000000000005"}, "timestamp": {"stop": 1}, "info": {"size": 1}}
        return {"label": label, "error": error, "reference": list(reference) or None, "database": {"id": 1}, **facts}

    found = [base("A", False), base("B", True), base("BD", False, "B"), base("C", False), base("CD", False, "C")]
    stanza = {"archive": [{"database": {"id": 1}, "id": "17-1"}], "backup": found}
    monkeypatch.setattr(Archive, "pgbackrest", lambda *_: json.dumps([stanza]))
    assert [one.label for one in Archive().all_bases()] == ["A", "B", "BD", "C", "CD"]
    assert [one.label for one in Archive().bases()] == ["A", "C", "CD"]


def saved(archive: str, hour: int) -> Snapshot:
    """A backup of an archive."""
    tags = runs.tags_of("postgresql.cluster", "files", f"20260102T{hour:02}0000Z")
    return Snapshot(f"{archive}{hour}", "", (*tags, f"archive:{archive}"), ())


def marked(archive: str, hour: int, kind: str) -> list[Snapshot]:
    """A backup of an archive, with a mark; with none that ended before if the kind is empty."""
    files = saved(archive, hour)
    mark = Snapshot("mark", "", tuple(runs.tags_of("postgresql.cluster", kind, f"20260102T{hour:02}0000Z")), ())
    return [files, *([mark] if kind else [])]


def test_a_time_that_is_no_backup_is_a_moment_which_is_now_at_most(tmp_path: Path) -> None:
    moments, run = Moments(Server(), Archive(tmp_path)), Run("shop", "20260102T030405Z", "files", "database")

    def wanted(at: str, *snapshots: Snapshot) -> datetime | None:
        found = moments.wanted(at, run, list(snapshots), own=True)
        return found.moment if found else None

    assert wanted("2026-01-02 03:04:05+00:00") is None
    assert wanted("2026-01-02 03:04:06+00:00") == datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC)
    for begun in (datetime.now().strftime("%Y-%m-%d %H:%M"), (datetime.now(UTC) + timedelta(days=1)).isoformat()):
        assert datetime.now(UTC) - (wanted(begun) or run.time) < timedelta(minutes=1)
    with pytest.raises(BackupError, match="is not a time"):
        wanted("noon")


def test_without_a_time_the_end_of_an_archive_is_restored_unless_it_is_that_of_this_host(tmp_path: Path) -> None:
    moments, run = Moments(Server(), Archive(tmp_path)), Run("shop", "20260102T030405Z", "files", "database")
    assert moments.wanted("", run, [], own=True) is None
    for own in ("", "new"):
        if own:
            (tmp_path / "id").write_text(f"{own}\n")
        found = moments.wanted("", run, [saved("old", 1)], own=True)
        assert found
        assert not found.own
        assert datetime.now(UTC) - found.moment < timedelta(minutes=1)
        later = moments.wanted("2026-01-03", run, [saved("old", 1)], own=True)
        assert later
        assert later.own  # if its own archive has that time; `dump` asks the target otherwise
    assert moments.wanted("", run, [saved("old", 1), saved("new", 2)], own=True) is None


def test_a_restore_says_how_old_a_backup_is_against_the_time_that_was_asked_for() -> None:
    run = Run("shop", "20260102T030405Z", "files", "database")
    assert run.note("2026-01-02 17:06:07+00:00") == (
        f"The backup is that of {run.shown}, 14 h 2 min before the time that was asked for."
    )
    assert ", 2 d before" in run.note("2026-01-04 03:04:05+00:00")
    assert run.note("2026-01-02 03:04:05+00:00") == run.note("") == ""


def test_a_target_restores_the_archive_that_had_begun_before_the_moment() -> None:
    hours = {1: "old", 3: "old", 5: "new", 7: "new"}
    snapshots = [snapshot for hour, archive in hours.items() for snapshot in marked(archive, hour, "complete")]
    target = Target("store", "rclone:web1")

    def at(hour: int) -> str:
        return choose(snapshots, datetime(2026, 1, 2, hour, tzinfo=UTC), target).id

    assert at(2) == "old3"
    assert at(4) == "old3"  # and the WAL that was sent after it
    assert at(6) == "new7"
    assert at(9) == "new7"
    with pytest.raises(NoArchive, match="no archive of PostgreSQL from that time"):
        at(0)


def test_an_incomplete_backup_of_an_archive_is_not_restored() -> None:
    old, target = marked("old", 1, "complete"), Target("store", "rclone:web1")
    later = [*marked("old", 3, "incomplete"), *marked("old", 4, ""), *marked("old", 5, "complete")]

    def at(hour: int, snapshots: list[Snapshot]) -> str:
        return choose(snapshots, datetime(2026, 1, 2, hour, tzinfo=UTC), target).id

    assert at(2, old + later) == "old5"
    assert at(2, old + later[:-2]) == "old1"
    assert at(4, old + later[:-2]) == "old1"
    # The moment belongs to the newer archive, although that had only incomplete backups until then.
    assert at(6, old + marked("new", 5, "") + marked("new", 7, "complete")) == "new7"
    for only in (marked("new", 5, "incomplete"), marked("new", 5, "")):
        with pytest.raises(OnlyIncomplete, match="store has only incomplete backups of the archive"):
            at(6, old + only)


def test_backup_base_prints_the_error_of_a_base_backup_that_its_unit_has_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shared").mkdir()
    monkeypatch.setattr(main, "is_root", lambda: True)
    monkeypatch.setattr(main, "Status", lambda: Status(tmp_path))
    monkeypatch.setattr(subprocess, "run", lambda argv: subprocess.CompletedProcess(argv, 0))
    assert main.main(["base"]) == 0
    assert capsys.readouterr() == ("Done.\n", "")
    Status(tmp_path).record("archive", base_error="The cluster has damaged pages.")
    assert main.main(["base"]) == 1
    assert capsys.readouterr() == ("", "The cluster has damaged pages.\n")


@pytest.mark.parametrize(
    ("variables", "archives"),
    [
        ({"backup_targets": [{"name": "store"}], "backup_point_in_time": True}, True),
        ({"backup_targets": [{"name": "store"}]}, False),
        ({"backup_targets": [], "backup_point_in_time": True}, False),
    ],
)
def test_wal_is_archived_only_with_a_target(variables: dict[str, Any], archives: bool) -> None:
    assert archives_wal(variables) is archives


def test_postgresql_archives_only_with_a_command(render: Render) -> None:
    assert "archive" not in render("postgresql", "site.conf.j2")
    text = render("postgresql", "site.conf.j2", postgresql_archive_command="it's %p")
    assert "archive_command = 'it''s %p'\narchive_timeout = 30\n" in text


def test_the_status_shows_the_archive_of_postgresql_and_what_is_wrong_with_it() -> None:
    now = 1_767_322_800.0  # 2026-01-02 03:00
    archive: dict[str, Any] = {
        "archived": now - 40,
        "since": now - 86400,
        "base_time": now - 3600,
        "base_error": "",
        "waits": "",
        "gap": None,
        "targets": {"store": {"time": now - 30, "error": ""}},
    }
    settings = {"since": 0, "apps": [], "targets": [{"name": "store"}], "max_age": MAX_AGE}
    settings |= {"point_in_time": True, "logs": ["store"]}
    status: dict[str, Any] = {"settings": settings, "targets": {"store": {"checked": now}}, "archive": archive}
    status["backups"] = {"postgresql.cluster": {"store": {"time": now, "error": ""}}}
    found = backup_status.summary(status, now)
    assert found
    assert (found["last_wal"], found["restorable_since"]) == ("2026-01-02T02:59:20Z", "2026-01-01T03:00:00Z")
    assert found["problem"] == ""

    def problem(**values: Any) -> str:
        changed = backup_status.summary(status | {"archive": archive | values}, now)
        return str(changed and changed["problem"])

    assert problem(waits="000000010000000000000007").startswith("PostgreSQL can't archive its WAL")
    assert problem(gap=now - 60) == (
        "WAL is missing in the archive after 2026-01-02 02:59 UTC, as the disk was full or files were deleted"
    )
    assert problem(base_error="pgbackrest failed: no\nmore") == (
        "the last base backup of PostgreSQL failed: pgbackrest failed: no"
    )
    assert problem(base_time=now - 51 * HOUR) == "PostgreSQL has no base backup since 50 hours"
    late = {"store": {"time": now - 700, "error": "The target store can't be reached.\nCheck it."}}
    assert problem(targets=late) == "WAL is not sent to store: The target store can't be reached."
    assert problem(targets={"store": {"time": now - 700, "error": ""}}).endswith("status backup-archive@store")
    assert problem(targets={"store": {"time": now - 100, "error": "a short one"}}) == ""
    del status["backups"]
    assert problem() == "PostgreSQL's archive has no backup on store since 50 hours"


@pytest.mark.needs("pgbackrest")
def test_wal_is_dropped_before_the_disk_is_full(render: Render, tmp_path: Path) -> None:
    command = tmp_path / "pgbackrest-push"
    for mebibytes, dropped in ((2**40, True), (0, False)):
        command.write_text(render("backup", "pgbackrest-push.j2", backup_point_in_time_queue=mebibytes))
        done = subprocess.run(["sh", command, "pg_wal/no-segment"], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode == 0) == dropped
        assert ("nearly full, so pg_wal/no-segment was dropped" in done.stderr) == dropped
