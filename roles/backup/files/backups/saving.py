"""Back up the apps of this host to the targets, check the repositories, and delete old backups."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backups import copies, redis, runs
from backups.archive import CLUSTER, Archive
from backups.engine import NoRepository, Restic, Saved, Snapshot
from backups.postgres import Server, dump_command
from backups.settings import APPS, CONFIG, STATE, App, BackupError, Settings, Target
from backups.shipping import Log
from backups.status import Status, locked, shared

CHECKED_EVERY = 7 * 86400  # seconds
CHECKED_PART = 10  # a check reads one of so many parts of the data
CACHE = Path("/var/cache/backup")
MANIFEST = "backup.json"
NAMED = 5  # unreadable files that an error names


@dataclass
class Saver:
    """Backs up the apps.

    Args:
        settings: what to save and where.
        state: folder for copies and for the status.
        config: folder with the keys.
        cache: folder for restic's cache.
        archive: the archive of the cluster.
    """

    settings: Settings
    state: Path = STATE
    config: Path = CONFIG
    cache: Path | None = CACHE if os.geteuid() else None  # root would leave files that the user of the unit can't read
    archive: Archive = Archive()  # noqa: RUF009

    def engine(self, target: Target) -> Restic:
        limit = self.settings.limit_upload
        known_hosts = shared(self.state) if os.geteuid() else self.state
        return Restic(target, self.settings.host, self.config, known_hosts, self.cache, limit)

    def run(self, names: list[str]) -> list[str]:
        """Back up some apps, or all, to every target; return what failed. A failure stops nothing else."""
        chosen = [self.settings.app(name) for name in names] or list(self.settings.apps)
        failures = []
        with locked(shared(self.state) / "lock"):
            for target in self.settings.targets:
                for app in chosen:
                    if error := self.back_up(app, target):
                        failures.append(f"{app.name}: {error}")
                        if "can't be reached" in error:
                            break  # nor for the other apps
                else:
                    if not names and self.settings.point_in_time and (error := self.back_up_archive(target)):
                        failures.append(error)
                    if not names and (error := self.look_after(target)):
                        failures.append(error)
        return failures

    def back_up(self, app: App, target: Target) -> str:
        """Back up one app to one target, and record the result; return the error, if any."""
        return self.record(app.name, target, lambda: self.save(app, self.engine(target)))

    def back_up_archive(self, target: Target) -> str:
        """Back up the archive of the cluster to one target, and record the result; return the error, if any."""
        return self.record(CLUSTER, target, lambda: self.save_archive(self.engine(target)))

    def record(self, name: str, target: Target, save: Callable[[], dict[str, Any]]) -> str:
        """Save something to a target, and record the result; return the error, if any."""
        begun = time.time()
        try:
            result = save()
        except (BackupError, sqlite3.Error, OSError) as error:
            Status(self.state).record("backups", name, target.name, error=str(error), failed=int(begun))
            return str(error)
        values = {"error": "", "time": int(begun), "seconds": round(time.time() - begun, 1)}
        Status(self.state).record("backups", name, target.name, **values, **result)
        return ""

    def save_archive(self, restic: Restic) -> dict[str, Any]:
        """Save the archive of the cluster. pgBackRest changes no file in it, so only new files are sent."""
        stamp = runs.new_stamp()
        tags = [*runs.tags_of(CLUSTER, "files", stamp), f"archive:{self.archive.id}"]
        saved = restic.save_files([self.archive.repository], [], tags)
        self.mark(restic, CLUSTER, stamp, listed(saved))
        return {"size": saved.size, "added": saved.added, "stamp": stamp}

    def save(self, app: App, restic: Restic) -> dict[str, Any]:
        """Save one app: first its database, then its files, so that no row has a file that was not there yet."""
        stamp = runs.new_stamp()
        about: dict[str, Any] = {"app": app.name, "host": self.settings.host, "stamp": stamp}
        try:
            size, added = self.save_once(app, restic, stamp, about)
        except NoRepository:
            self.check_first_time(restic.target)
            restic.create()
            size, added = self.save_once(app, restic, stamp, about)
        Status(self.state).record("targets", restic.target.name, repository=restic.target.repository)
        self.mark(restic, app.name, stamp, about["lacks"])
        return {"size": size, "added": added, "stamp": stamp}

    @staticmethod
    def mark(restic: Restic, name: str, stamp: str, lacks: list[str]) -> None:
        """Mark a backup as complete, or as incomplete if it lacks something.

        Raises:
            BackupError: when it does; with what is missing.
        """
        kind = runs.INCOMPLETE if lacks else runs.COMPLETE
        problem = f"Its other data was saved, but not {', and not '.join(lacks)}" if lacks else ""
        try:
            restic.save_output(["printf", "%s\n", *(lacks or [kind])], f"/{kind}", runs.tags_of(name, kind, stamp))
        except BackupError as error:
            if not lacks:
                raise
            raise BackupError(f"{problem}\nNor could it be marked as incomplete: {error}") from None
        if lacks:
            raise BackupError(problem)

    def check_first_time(self, target: Target) -> None:
        """Check that this host has not had a repository on a target.

        Raises:
            BackupError: when it had one, which is gone.
        """
        known = Status(self.state).read()["targets"].get(target.name, {})
        if known.get("repository") == target.repository:
            raise BackupError(
                f"The repository on {target.name} is gone, with all backups in it. Nothing was saved.\nIs the disk "
                f"mounted, was a folder renamed? To start a new repository: sudo backup forget-repository {target.name}"
            )

    def forget_repository(self, target: Target) -> None:
        """Forget that a target had a repository, so that the next backup starts a new one."""
        Status(self.state).record("targets", target.name, repository="", error="")

    def save_once(self, app: App, restic: Restic, stamp: str, about: dict[str, Any]) -> tuple[int, int]:
        size = added = 0
        if app.redis:
            dumped = Status(self.state).read().get("redis", {}).get(app.name, {})
            about["redis_error"] = redis.problem(app, dumped, os.environ.get("INVOCATION_ID", ""))
            about["redis"] = "" if about["redis_error"] else redis.dump_of(app).name
        if app.database:
            server = Server()
            about |= {"postgresql": server.major(), "extensions": server.extensions(app.name)}
            with contextlib.suppress(BackupError):  # a table was dropped in the meantime
                about["has_rows"] = server.has_rows(app.name)
            saved = restic.save_output(
                dump_command(app.name), f"/{app.name}.dump", runs.tags_of(app.name, "database", stamp)
            )
            size, added = saved.size, saved.added
        with self.staged(app, about) as (stage, exclude):
            paths = [*([app.folder] if app.data else []), stage, *([redis.dump_of(app)] if about.get("redis") else [])]
            # Only in the data folder: a pattern may also match a part of the path to the copies.
            own = [str(app.folder / pattern.lstrip("/")) for pattern in self.settings.exclude if "/" in pattern]
            own += [f"{app.folder}/**/{pattern}" for pattern in self.settings.exclude if "/" not in pattern]
            saved = restic.save_files(paths, [*exclude, *own], runs.tags_of(app.name, "files", stamp))
        about["lacks"] = listed(saved)
        about["lacks"] += [f"that in Redis: {about['redis_error']}"] if about.get("redis_error") else []
        return size + saved.size, added + saved.added

    @contextlib.contextmanager
    def staged(self, app: App, about: dict[str, Any]) -> Iterator[tuple[Path, list[str]]]:
        """A folder with copies of the app's SQLite databases and a description of the backup, and what they replace."""
        stage = self.state / "stage" / app.name
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(mode=0o700, parents=True)
        try:
            exclude: list[str] = []
            if app.data:
                if app.folder.is_symlink():
                    raise BackupError(
                        f"{app.folder} is a symbolic link, so the data behind it would not be saved.\nMake it a "
                        "folder, for example with a bind mount of the other place."
                    )
                if not app.folder.is_dir():
                    raise BackupError(f"{app.folder} is missing. Deploy the app, or remove it from the inventory.")
                copied = copies.copy_all(app.folder, stage / "sqlite")
                about |= {"sqlite": [asdict(one) for one in copied], **account(app)}
                has_files = any(
                    os.path.isfile(path) and not os.path.islink(path)
                    for root, _, names in os.walk(app.folder)
                    for path in (os.path.join(root, name) for name in names)
                )
                about["has_files"] = has_files and not self.settings.exclude  # which may match all of them
                for one in copied:
                    literal = re.sub(r"([*?\[\\])", r"\\\1", str(app.folder / one.path))
                    exclude += [literal, *(f"{literal}{end}" for end in copies.SIDE_FILES)]
            (stage / MANIFEST).write_text(json.dumps(about, indent=1, sort_keys=True))
            yield stage, exclude
        finally:
            shutil.rmtree(stage, ignore_errors=True)

    def look_after(self, target: Target) -> str:
        """Once a week, check the repository, and delete old backups where that is allowed; return the error, if any.

        Nothing is deleted from a damaged repository: the old backups may be the good ones.
        """
        known = Status(self.state).read()["targets"].get(target.name, {})
        if time.time() - known.get("checked", 0) < CHECKED_EVERY and not known.get("error"):
            return ""
        try:
            self.check(target)
            if not target.append_only:
                self.prune(target)
        except BackupError as error:
            return str(error)
        return ""

    def prune(self, target: Target) -> int:
        """Delete the backups that are no longer kept; return how many snapshots that were."""
        restic = self.engine(target)
        try:
            snapshots = restic.snapshots()
            gone = runs.to_forget(snapshots, self.settings.keep)
            restic.forget(gone)
            needed, others = needed_since([one for one in snapshots if one.id not in gone])
            if needed and target.has_log:
                Log(restic).prune(needed, others)
        except BackupError as error:
            Status(self.state).record("targets", target.name, error=str(error))
            raise
        # The error of a check stays until one succeeds.
        Status(self.state).record("targets", target.name, pruned=int(time.time()))
        return len(gone)

    def check(self, target: Target) -> None:
        """Check the repository of a target; each time another part of its data is read, too."""
        part = int(time.time() // CHECKED_EVERY) % CHECKED_PART + 1
        try:
            self.engine(target).check(f"{part}/{CHECKED_PART}")
        except BackupError as error:
            Status(self.state).record("targets", target.name, error=str(error))
            raise
        Status(self.state).record("targets", target.name, checked=int(time.time()), error="")


def account(app: App) -> dict[str, int]:
    """User and group of the app, which may have other numbers on another host."""
    try:
        found = pwd.getpwnam(app.name)
    except KeyError:
        found_stat = os.stat(APPS / app.name / "data")
        return {"uid": found_stat.st_uid, "gid": found_stat.st_gid}
    return {"uid": found.pw_uid, "gid": found.pw_gid}


def needed_since(snapshots: list[Snapshot]) -> tuple[dict[str, float], float]:
    """Since when WAL is needed that was sent: of each archive in the backups, and of those without any.

    A complete backup contains the WAL before it. Of an archive with only incomplete ones, all WAL is needed since the
    oldest of them. An archive without any has expired when its WAL is older than the complete backups of all others.
    """
    archives = {one.id: runs.tag(one, "archive") for one in snapshots if runs.tag(one, "app") == CLUSTER}
    own = [run for run in runs.runs_of(snapshots) if archives.get(run.files)]
    complete = {archives[run.files]: run.time.timestamp() for run in own if not run.incomplete}
    oldest = {archives[run.files]: run.time.timestamp() for run in reversed(own)}
    return oldest | complete, max(complete.values(), default=0)


def listed(saved: Saved) -> list[str]:
    """What could not be read, for an error; some of it, if it is much."""
    names, more = saved.unreadable[:NAMED], len(saved.unreadable) - NAMED
    end = f" and {more} more" if more > 0 else ""
    return [f"what can't be read: {', '.join(names)}{end}"] if names else []
