"""Backups of an app: which snapshots belong together, which one belongs to a time, and which ones are kept.

One backup of an app has up to two snapshots with the same tag `run:TIME`: first `kind:database`, then `kind:files`. A
backup without `kind:files` was interrupted, and counts for nothing.

The last snapshot of a backup is a mark: `kind:complete`, or `kind:incomplete` if something could not be read. A backup
without a mark, whose run has ended before, is incomplete too. A mark is a snapshot of its own, as a host that may only
add to a repository can't change the tags of a snapshot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from backups.engine import Snapshot
from backups.settings import BackupError

STAMP = "%Y%m%dT%H%M%SZ"
SHOWN = "%Y-%m-%d %H:%M:%S"
COMPLETE = "complete"
INCOMPLETE = "incomplete"
LISTED = 12  # backups that an error lists


@dataclass(frozen=True)
class Run:
    """A backup of an app that has ended."""

    app: str
    stamp: str
    files: str
    database: str = ""
    incomplete: bool = False

    @property
    def time(self) -> datetime:
        return datetime.strptime(self.stamp, STAMP).replace(tzinfo=UTC)

    @property
    def shown(self) -> str:
        """Its time, in the time zone of this host."""
        return self.time.astimezone().strftime(SHOWN)

    def note(self, at: str) -> str:
        """What a restore of it has to say.

        Args:
            at: the time that was asked for; empty for the newest backup.
        """
        older = before(self.time, at)
        notes = [f"The backup is that of {self.shown}{older}."] if older else []
        lacks = "when it was made, something could not be read, or the run was interrupted."
        notes += [f"The backup is incomplete: {lacks}"] if self.incomplete else []
        return " ".join(notes)


def new_stamp(now: datetime | None = None) -> str:
    """The time of a new backup, in UTC."""
    return (now or datetime.now(UTC)).strftime(STAMP)


def tags_of(app: str, kind: str, stamp: str) -> list[str]:
    return [f"app:{app}", f"kind:{kind}", f"run:{stamp}"]


def tag(snapshot: Snapshot, key: str) -> str:
    """The value of a tag KEY:VALUE of a snapshot; empty without it."""
    return next((one.partition(":")[2] for one in snapshot.tags if one.startswith(f"{key}:")), "")


def runs_of(snapshots: Iterable[Snapshot]) -> list[Run]:
    """The backups that have ended in a list of snapshots, the oldest first."""
    kinds: dict[tuple[str, str], dict[str, Snapshot]] = {}
    for snapshot in snapshots:
        app, stamp, kind = (tag(snapshot, key) for key in ("app", "run", "kind"))
        if app and kind and re.fullmatch(r"\d{8}T\d{6}Z", stamp):
            kinds.setdefault((stamp, app), {})[kind] = snapshot
    return [
        Run(app, stamp, found["files"].id, found["database"].id if "database" in found else "", COMPLETE not in found)
        for (stamp, app), found in sorted(kinds.items())
        if "files" in found
    ]


def latest_moment(at: str) -> datetime:
    """The last moment that a time means: `2026-01-02 03:04` ends at 03:04:59, and `2026-01-02` at midnight.

    Raises:
        BackupError: when it is no time.
    """
    text = at.strip()
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise BackupError(f"'{at}' is not a time. Write it as: -e at='2026-01-02 03:04'") from None
    if re.fullmatch(r"\d{4}-?\d\d-?\d\d", text):
        found += timedelta(days=1, seconds=-1)
    elif re.fullmatch(r"[\d-]+[T ]\d\d:?\d\d([Z+-].*)?", text):
        found += timedelta(seconds=59)
    return found.astimezone(UTC)  # a time without a zone is one of this host


def before(moment: datetime, at: str) -> str:
    """How old a moment is against the time that was asked for, in its two largest units; empty if it is that time."""
    left, parts = int((latest_moment(at) - moment).total_seconds()) if at else 0, []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        parts += [f"{count} {unit}"] if count else []
    return f", {' '.join(parts[:2])} before the time that was asked for" if parts else ""


def choose(runs: list[Run], app: str, at: str, where: str) -> Run:
    """The newest backup of an app, or the newest one that is not younger than a time.

    Args:
        runs: the backups, the oldest first.
        app: name of the app.
        at: a time; empty for the newest backup.
        where: the target, for errors.

    Raises:
        BackupError: when there is none; it lists those that exist.
    """
    own = [run for run in runs if run.app == app]
    if not own:
        others = ", ".join(sorted({run.app for run in runs})) or "none"
        raise BackupError(f"{where} has no backup of {app}. It has backups of: {others}.")
    fitting = [run for run in own if not at or run.time <= latest_moment(at)]
    if not fitting:
        listed = "\n".join(f"  {run.shown}" for run in own[:LISTED])
        more = f"\n  and {len(own) - LISTED} younger ones" if len(own) > LISTED else ""
        raise BackupError(f"{where} has no backup of {app} from {at} or before. It has these:\n{listed}{more}")
    return fitting[-1]


def kept_of(runs: Iterable[Run], keep: dict[str, int]) -> set[Run]:
    """The newest one of some backups, and the newest ones of the last days, weeks and months."""
    newest_first = sorted(runs, key=lambda run: run.stamp, reverse=True)
    kept = set(newest_first[:1])
    for rule, form in (("daily", "%Y-%m-%d"), ("weekly", "%G-%V"), ("monthly", "%Y-%m")):
        periods: dict[str, Run] = {}
        for run in newest_first:
            periods.setdefault(run.time.strftime(form), run)
        kept.update(list(periods.values())[: keep.get(rule, 0)])
    return kept


def to_forget(snapshots: list[Snapshot], keep: dict[str, int]) -> list[str]:
    """The snapshots that are no longer kept: of each app, all but the newest backup of the last days, weeks and months.

    Incomplete backups are counted apart, so that none of them replaces a complete one. But each is kept no longer than
    a complete one of its time would be. Snapshots of an interrupted backup are kept for a day, as that backup may still
    run.
    """
    runs = runs_of(snapshots)
    kept: set[tuple[str, str]] = set()
    for app in {run.app for run in runs}:
        complete, incomplete = ([run for run in runs if (run.app, run.incomplete) == (app, no)] for no in (False, True))
        stay = {run for run in kept_of(incomplete, keep) if run in kept_of([*complete, run], keep)}
        kept |= {(app, run.stamp) for run in kept_of(complete, keep) | stay}
    ended = {(run.app, run.stamp) for run in runs}
    recent = new_stamp(datetime.now(UTC) - timedelta(days=1))
    gone = []
    for snapshot in snapshots:
        app, stamp = tag(snapshot, "app"), tag(snapshot, "run")
        if not app or not stamp:  # not made by this program
            continue
        if (app, stamp) in ended - kept or ((app, stamp) not in ended and stamp < recent):
            gone.append(snapshot.id)
    return gone
