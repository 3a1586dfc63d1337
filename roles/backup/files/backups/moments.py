"""The cluster of this host as of a moment: restored beside the live one for a while, with little memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backups import runs
from backups.archive import CLUSTER, Archive, NoArchive, OnlyIncomplete, cipher, shown
from backups.engine import Restic, Snapshot
from backups.placing import restored
from backups.postgres import Server
from backups.settings import BackupError, Target
from backups.shipping import Log, unpack

SCRATCH = Path("/var/lib/backup-restore")
SPARE = 256 * 2**20  # bytes that have to stay free, for what the restored cluster writes
PATIENCE = 60  # seconds to wait until the newest WAL is in the archive
RECOVERY_TIMEOUT = 86400  # seconds
STOPPED = 3  # exit status of pg_ctl for a server that does not run
TOO_EARLY = "recovery ended before configured recovery target was reached"
MARGIN = 3600  # seconds within which PostgreSQL archives its WAL, unless that fails
# One client, and hardly any memory. Nothing is archived, and nothing has to survive a crash. What the server needs for
# the replay, such as its locks, has at least the size that the live cluster may have.
SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "32MB",
    "maintenance_work_mem": "32MB",
    "max_connections": "10",
    "max_prepared_transactions": "100",
    "max_wal_size": "512MB",
    "autovacuum": "off",
    "fsync": "off",
    "hot_standby": "off",
    "archive_mode": "off",
    "shared_preload_libraries": "",
    "logging_collector": "off",
    "jit": "off",
}


@dataclass(frozen=True)
class Wanted:
    """A moment to restore a database to.

    Args:
        moment: the moment.
        at: the time that was asked for; empty for the newest state.
        own: whether it may be restored from the archive of this host, which needs no target.
        run: the backup of that time, which has an older dump of the database.
    """

    moment: datetime
    at: str
    own: bool
    run: runs.Run

    def __str__(self) -> str:
        return f", with the database of {shown(self.moment.timestamp())} or the end of its archive"

    def note(self, end: float) -> str:
        """Which moment was restored from an archive that ends at a moment."""
        seconds = self.moment.timestamp()
        last = datetime.fromtimestamp(min(end, seconds), UTC)
        ends = " The archive ends there: it has nothing that was committed later." if end < seconds else ""
        return f"The database is that of {shown(last.timestamp())}{runs.before(last, self.at)}.{ends}"


@dataclass(frozen=True)
class Moments:
    """Restores the cluster as of a moment.

    Args:
        server: the live cluster, as a superuser.
        archive: the archive of this host.
        scratch: folder for restored clusters, which root owns and others may enter.
    """

    server: Server
    archive: Archive = Archive()  # noqa: RUF009
    scratch: Path = SCRATCH

    def wanted(self, at: str, run: runs.Run, snapshots: list[Snapshot], own: bool) -> Wanted | None:
        """The moment to restore a database to; None for that of a backup.

        Without a time, it is the end of the newest archive of the target, if that is not the archive of this host, but
        that of a host which is lost, or of another one. The end of its own archive is what this host has already, with
        all damage.

        Args:
            at: a time, or nothing for the newest state.
            run: the backup of that time.
            snapshots: those of the target.
            own: whether the archive of this host may be used.

        Raises:
            BackupError: when it is no time.
        """
        now = datetime.now(UTC)
        newest = [found for one in snapshots if (found := runs.tag(one, "archive"))][-1:]
        with contextlib.suppress(NoArchive):
            newest = [] if newest == [self.archive.id] else newest
        moment = min(runs.latest_moment(at), now) if at else now
        wanted = Wanted(moment, at, own and (bool(at) or not newest), run)
        return None if moment == run.time or not (at or newest) else wanted

    def archive_all(self) -> None:
        """Have everything archived that was committed until now, and a transaction after it that ends a restore."""
        with contextlib.suppress(BackupError):  # the live cluster may be damaged; then what is archived has to do
            self.server.sql("SELECT pg_current_xact_id()")
            last = self.server.sql("SELECT pg_walfile_name(pg_switch_wal())")
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                if any(last in one.path for one in self.archive.segments()):
                    return
                time.sleep(0.5)

    def own(self, moment: datetime) -> Archive:
        """The archive of this host, if the moment can be restored from it.

        Raises:
            NoArchive: when it can't; with the reason.
        """
        self.archive_all()
        self.archive.base(moment.timestamp())
        return self.archive

    def fetched(self, engine: Restic, moment: datetime, stamp: str) -> Archive:
        """The archive that a target has, as of a moment, in a folder that `clean` removes.

        Raises:
            NoArchive: when the target has none, or not that of the moment.
            BackupError: when it can't be read.
        """
        chosen = choose(engine.snapshots(f"app:{CLUSTER}"), moment, engine.target)
        folder = self.scratch / f"{stamp}.archive"
        password = cipher((engine.config / "password").read_text().strip())
        archive = replace(
            self.archive, repository=Path(f"{folder}{self.archive.repository}"), config=None, password=password
        )
        folder.mkdir(mode=0o711, parents=True)
        check_space(folder, engine.size(chosen.id), "the archive")
        engine.restore(chosen.id, folder)
        restored(folder, self.archive.repository)
        # WAL may be sent at any time later, as a target may have been down.
        if engine.target.has_log and saved_at(chosen) < moment.timestamp() + MARGIN:
            log = Log(engine)
            for name in log.names(runs.tag(chosen, "archive"), saved_at(chosen) - MARGIN):
                unpack(log.read(name), archive.repository)
        for root, folders, files in os.walk(folder):
            for name in (*folders, *files):
                shutil.chown(Path(root, name), archive.user, archive.user)
        archive.base(moment.timestamp())
        return archive

    def dump(self, name: str, wanted: Wanted, engine: Restic, stamp: str, to: Path) -> tuple[dict[str, Any], str]:
        """Dump a database as of a moment, or as of the end of the archive, if that is before it.

        Args:
            name: the database.
            wanted: the moment.
            engine: the target with the archive.
            stamp: when the restore began.
            to: the file to write.

        Returns:
            The version and the extensions, and which moment that is.

        Raises:
            NoArchive: when no archive has that moment, or one that is younger than the backup.
            BackupError: when the restore fails, or when what has the moment is incomplete and a time was asked for.
        """
        moment = wanted.moment
        with contextlib.ExitStack() as stack:
            stack.callback(self.clean, stamp)
            try:
                archive = self.found(wanted, engine, stamp)
            except OnlyIncomplete as error:
                if not wanted.at:
                    raise
                raise BackupError(
                    f"{error}\nSo that moment can't be restored. Choose another target with -e target=NAME, or restore "
                    f"the database of the backup before it: -e at='{wanted.run.shown}'"
                ) from None
            end = archive.end(moment.timestamp())
            if end < wanted.run.time.timestamp():
                raise NoArchive(f"The archive of PostgreSQL ends before it, at {shown(end)}.")
            server = self.cluster(archive, moment, stamp)
            if not server.exists(name):
                raise BackupError(f"PostgreSQL had no database {name} at that moment. Choose a later one: -e at=TIME")
            check_space(to.parent, 2 * server.size(name), "the database")
            server.dump(name, to)
            return {"postgresql": server.major(), "extensions": server.extensions(name)}, wanted.note(end)

    def found(self, wanted: Wanted, engine: Restic, stamp: str) -> Archive:
        """The archive of this host, if it may be used and has the moment; otherwise, that of the target.

        Raises:
            OnlyIncomplete: when one of them has the moment, but only with errors.
            NoArchive: when none has it.
        """
        if not wanted.own:
            return self.fetched(engine, wanted.moment, stamp)
        try:
            return self.own(wanted.moment)
        except NoArchive as here:
            try:
                return self.fetched(engine, wanted.moment, stamp)
            except NoArchive as there:
                kind = OnlyIncomplete if isinstance(here, OnlyIncomplete) else type(there)
                raise kind(f"{here} {there}") from None

    def cluster(self, archive: Archive, moment: datetime, stamp: str) -> Server:
        """A running cluster as of a moment, or as of the end of its archive, until `clean` removes it.

        Raises:
            BackupError: when it does not start, or the disk is too small.
        """
        folder = self.scratch / stamp
        folder.mkdir(mode=0o711, parents=True)
        base = archive.base(moment.timestamp())
        check_space(folder, base.size, "the cluster")
        shutil.chown(folder, archive.user)
        reached = archive.end(moment.timestamp()) >= moment.timestamp()
        archive.restore(base, moment if reached else None, folder / "data")
        self.start(archive, folder / "data")
        return scratch_server(archive, folder)

    def clean(self, stamp: str) -> None:
        """Remove what a restore has left: its cluster and its archive."""
        folder = self.scratch / stamp
        if folder.exists():
            with contextlib.suppress(BackupError):
                stop = ("--mode=immediate", "stop")
                self.archive.run(program(folder / "data", "pg_ctl"), f"--pgdata={folder}/data", *stop)
            shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.scratch / f"{stamp}.archive", ignore_errors=True)

    def start(self, archive: Archive, data: Path) -> None:
        """Start a restored cluster and wait until it has replayed the WAL."""
        folder = data.parent
        lines = [f"{name} = '{value}'" for name, value in SETTINGS.items()]
        lines += [f"unix_socket_directories = '{folder}'", f"hba_file = '{folder}/pg_hba.conf'"]
        write = 'printf "%s\\n" "$1" > "$0"'
        archive.run("sh", "-c", write, f"{folder}/pg_hba.conf", f"local all {archive.user} peer")
        archive.run("sh", "-c", write, f"{folder}/postgresql.conf", "\n".join(lines))
        if self.replay(archive, data):
            return
        # All WAL was replayed, and no transaction in it is younger than the moment: its end is the state of the moment.
        archive.run("sh", "-c", """echo "recovery_target_time = ''" >> "$0" """, f"{data}/postgresql.auto.conf")
        if not self.replay(archive, data):
            raise BackupError("The restored cluster does not start at the end of its archive.")

    def replay(self, archive: Archive, data: Path) -> bool:
        """Start a restored cluster, and wait until it accepts connections; return whether the WAL reached the moment.

        Raises:
            BackupError: when it does not start for another reason.
        """
        folder, control = data.parent, [program(data, "pg_ctl"), f"--pgdata={data}"]
        options = f"-c config_file={folder}/postgresql.conf"
        server = scratch_server(archive, folder)
        archive.run("rm", "--force", f"{folder}/log")
        with contextlib.suppress(BackupError):
            archive.run(
                *control, f"--log={folder}/log", f"--options={options}", f"--timeout={RECOVERY_TIMEOUT}", "start"
            )
        while archive.run(*control, "status", accept=(0, STOPPED)).returncode != STOPPED:
            with contextlib.suppress(BackupError):  # while it replays, it refuses connections
                if server.sql("SELECT pg_is_in_recovery()") == "f":
                    return True
            time.sleep(0.5)
        said = (folder / "log").read_text(errors="replace")
        if TOO_EARLY not in said:
            raise BackupError(f"The restored cluster does not start: {said.strip()[-800:]}")
        return False


def scratch_server(archive: Archive, folder: Path) -> Server:
    """The restored cluster, as its superuser."""
    return Server("" if os.geteuid() else archive.user, socket=str(folder))


def choose(snapshots: list[Snapshot], moment: datetime, target: Target) -> Snapshot:
    """The snapshot of an archive that contains a moment, or the last one before it. Incomplete ones are left out.

    A host that replaces another one begins another archive. The moment belongs to the one that has begun before it.

    Args:
        snapshots: those of the archives, and their marks.
        moment: the moment.
        target: the target, for errors.

    Raises:
        OnlyIncomplete: when all of that archive are incomplete.
        NoArchive: when all have begun later, or there is none.
    """
    whole = {run.files for run in runs.runs_of(snapshots) if not run.incomplete}
    snapshots = [one for one in snapshots if runs.tag(one, "archive")]
    begun = [one for one in snapshots if saved_at(one) <= moment.timestamp()]
    if not begun:
        raise NoArchive(f"The target {target.name} has no archive of PostgreSQL from that time.")
    all_own = [one for one in snapshots if runs.tag(one, "archive") == runs.tag(begun[-1], "archive")]
    if not (own := [one for one in all_own if one.id in whole]):
        raise OnlyIncomplete(f"The target {target.name} has only incomplete backups of the archive of PostgreSQL.")
    return next((one for one in own if saved_at(one) > moment.timestamp() + MARGIN), own[-1])


def saved_at(snapshot: Snapshot) -> float:
    """When an archive was saved, in seconds since 1970."""
    return runs.Run("", runs.tag(snapshot, "run"), "").time.timestamp()


def check_space(folder: Path, needed: int, what: str) -> None:
    """Check the free space before something is written.

    Raises:
        BackupError: when it is not enough.
    """
    free = shutil.disk_usage(folder).free
    if needed + SPARE > free:
        raise BackupError(
            f"A restore to a moment needs {needed + SPARE >> 20} MiB for {what}, but {folder.parent} has "
            f"{free >> 20} MiB free."
        )


def program(data: Path, name: str) -> str:
    """The path of a server program of the version of a cluster.

    Raises:
        BackupError: when that version is not installed.
    """
    try:
        version = (data / "PG_VERSION").read_text().strip()
    except OSError:
        return name  # nothing was restored
    path = f"/usr/lib/postgresql/{version}/bin/{name}"
    if not os.access(path, os.X_OK):
        raise BackupError(
            f"The archive is of PostgreSQL {version} at that moment, which is not installed on this host.\nInstall it "
            f"for the restore: sudo apt-get install postgresql-{version}"
        )
    return path
