"""pgBackRest: the archive of the cluster of this host, with base backups and all WAL, encrypted and on its own disk."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from backups.settings import BackupError

USER = "postgres"  # owns the cluster and the archive
STANZA = "main"
CONFIG_FILE = Path("/etc/pgbackrest/pgbackrest.conf")
REPOSITORY = Path("/var/lib/pgbackrest")
CLUSTER = "postgresql.cluster"  # the archive among the backups of the apps, none of which can have this name
FULL_EVERY = 7 * 86400  # seconds
BASE_EVERY = 20 * 3600  # seconds: once a day, although a timer may start it earlier
SEGMENT = re.compile(r"(?P<timeline>[0-9A-F]{8})(?P<log>[0-9A-F]{8})(?P<number>[0-9A-F]{8})-[0-9a-f]{40}(\.\w+)?")
PER_LOG = 256  # segments of 16 MiB
DAMAGED = "The cluster has damaged pages, so no moment is restored from its new base backup."


class NoArchive(BackupError):
    """No archive has the moment."""


class DamagedPages(BackupError):
    """A new base backup has errors. Everything else of the archive goes on."""


class OnlyIncomplete(NoArchive):
    """Only base backups with errors, or incomplete backups of an archive, have the moment."""


@dataclass(frozen=True)
class Segment:
    """A complete segment of WAL in the archive.

    Args:
        path: its path below the archive.
        timeline: the cluster and its timeline, such as 17-1/00000001. An upgrade begins another cluster.
        number: its position in the timeline.
        time: when it was archived, in seconds since 1970.
    """

    path: str
    timeline: str
    number: int
    time: float


@dataclass(frozen=True)
class Base:
    """A base backup.

    Args:
        label: pgBackRest's name.
        start: its first segment: timeline and position.
        stop: when it ended. Later moments can be restored from it, if all WAL from `start` on is there.
        size: bytes of the cluster.
        error: whether pgBackRest has found damaged pages in it, or in one that it refers to.
    """

    label: str
    start: tuple[str, int]
    stop: int
    size: int
    error: bool = False


def position(cluster: str, name: str) -> tuple[str, int]:
    """Timeline and position of a segment of a cluster."""
    return f"{cluster}/{name[:8]}", int(name[8:16], 16) * PER_LOG + int(name[16:24], 16)


def cipher(password: str) -> str:
    """The password of the archive. It differs from that of the backups, so that PostgreSQL's user can't read these."""
    return hashlib.sha256(f"pgbackrest:{password}".encode()).hexdigest()


def first_gap(segments: Iterable[Segment], base: Base) -> float | None:
    """When the last segment was archived before WAL is missing; None when a base backup has all WAL from its start on.

    Without its first segment, the base backup is of no use: then it is the end of that.
    """
    timeline, number = base.start
    own = sorted({one.number: one for one in segments if one.timeline == timeline and one.number >= number}.items())
    if not own or own[0][0] != number:
        return base.stop
    return next((one.time for (this, one), (after, _) in pairwise(own) if after != this + 1), None)


def base_for(moment: float, bases: Iterable[Base], segments: list[Segment]) -> Base:
    """The base backup from which a moment is restored: the newest one before it that has no error.

    Raises:
        OnlyIncomplete: when all before it have errors.
        NoArchive: when there is none, or WAL is missing between it and the moment.
    """
    ended = [base for base in bases if base.stop <= moment]
    if not ended:
        raise NoArchive("The archive of PostgreSQL begins later.")
    if not (whole := [base for base in ended if not base.error]):
        raise OnlyIncomplete("The archive of PostgreSQL has only base backups with errors from before that moment.")
    chosen = max(whole, key=lambda base: base.stop)
    gap = first_gap(segments, chosen)
    if gap is not None and gap <= moment:
        raise NoArchive(f"WAL is missing in the archive of PostgreSQL, from {shown(gap)} on.")
    return chosen


def since(bases: Iterable[Base], segments: list[Segment]) -> int | None:
    """The oldest moment after which every moment can be restored; None without any."""
    return min((base.stop for base in bases if first_gap(segments, base) is None), default=None)


def shown(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


@dataclass(frozen=True)
class Archive:
    """An archive of pgBackRest.

    Args:
        repository: its folder.
        config: pgBackRest's configuration; without one, the options say everything.
        password: password of the archive, without `config`.
        user: user who owns the archive.
    """

    repository: Path = REPOSITORY
    config: Path | None = CONFIG_FILE
    password: str = ""
    user: str = USER

    def run(self, *argv: str, accept: Iterable[int] = (0,)) -> subprocess.CompletedProcess[str]:
        """Run a program as the user who owns the archive.

        Raises:
            BackupError: when it fails.
        """
        become = [] if os.geteuid() else ["runuser", "-u", self.user, "--"]
        try:
            done = subprocess.run(
                [*become, *argv],
                capture_output=True,
                text=True,
                errors="replace",
                cwd="/",
                env=self.environment(),
                stdin=subprocess.DEVNULL,
            )
        except FileNotFoundError as error:
            raise BackupError(f"{error.filename} is not installed. Run playbooks/site.yml on this host.") from None
        if done.returncode not in accept:
            said = "\n".join(line for line in (done.stderr + done.stdout).strip().splitlines()[-8:])
            raise BackupError(f"{Path(argv[0]).name} failed: {said[-800:]}")
        return done

    def environment(self) -> dict[str, str]:
        """The environment of pgBackRest, which PostgreSQL hands on when it gets WAL: the options name no password."""
        own = {"PGBACKREST_REPO1_CIPHER_TYPE": "aes-256-cbc", "PGBACKREST_REPO1_CIPHER_PASS": self.password}
        own = {} if self.config else own
        return {**os.environ, "PGBACKREST_LOG_LEVEL_FILE": "off", **own}

    def pgbackrest(self, command: str, *options: str) -> str:
        """Run a command of pgBackRest, and return its output."""
        return self.call(command, *options).stdout

    def call(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a command of pgBackRest, with warnings on its standard error."""
        where = [f"--config={self.config}"] if self.config else ["--no-config"]
        where += [f"--repo1-path={self.repository}", f"--stanza={STANZA}", "--log-level-console=warn"]
        return self.run("pgbackrest", *where, *options, command)

    @property
    def id(self) -> str:
        """The name of this archive. A host that replaces another one starts an archive of its own."""
        try:
            return (self.repository / "id").read_text().strip()
        except FileNotFoundError:
            raise NoArchive("This host has no archive of PostgreSQL yet. Run playbooks/site.yml on it.") from None

    def back_up(self, data: str) -> bool:
        """Make a base backup, if that is due: a full one each week, and what has changed since then on the other days.

        Args:
            data: folder of the cluster.

        Returns:
            Whether one was made.

        Raises:
            DamagedPages: when it was made, and has errors.
            BackupError: when it fails.
        """
        exists = (self.repository / "archive" / STANZA / "archive.info").exists()
        # An upgrade to another major version makes the cluster another one, and changes nothing otherwise.
        self.pgbackrest("stanza-upgrade" if exists else "stanza-create", f"--pg1-path={data}")
        bases = self.all_bases() if exists else []  # one with errors counts, too: another one would have them again
        # WAL may be missing from before its configuration was written, when the archive was off.
        configured = self.config.stat().st_mtime if self.config else 0
        is_new = bases and bases[-1].stop > max(configured, time.time() - BASE_EVERY)
        is_own = bases and bases[-1].start[0].startswith(f"{self.cluster}/")
        if is_new and is_own and first_gap(self.segments(), bases[-1]) is None:
            return False
        full = [base for base in bases if base.label.endswith("F")]
        is_due = not full or full[-1].error or time.time() - full[-1].stop > FULL_EVERY
        kind = "full" if is_due else "diff"
        done = self.call("backup", f"--pg1-path={data}", f"--type={kind}", "--no-expire-auto")
        if not (self.repository / "id").exists():
            self.run("sh", "-c", 'umask 027 && echo "$1" > "$0/id"', str(self.repository), uuid.uuid4().hex)
        if self.expire().error:
            raise DamagedPages(f"{DAMAGED}\npgbackrest: {(done.stderr + done.stdout).strip()[-600:]}")
        return True

    def expire(self) -> Base:
        """Delete what is too old, and the full base backups with errors before the newest one, which is returned.

        pgBackRest counts those with errors like good ones. So while the newest one has errors, nothing else is deleted:
        the last good one and its WAL stay, however old they are.
        """
        *older, newest = self.all_bases()
        for base in older:
            if base.error and base.label.endswith("F") and not newest.label.startswith(base.label):
                self.pgbackrest("expire", f"--set={base.label}", "--repo1-retention-archive=9999999")  # and no WAL
        if not newest.error:
            self.pgbackrest("expire")
        return newest

    @property
    def cluster(self) -> str:
        """pgBackRest's name of the present cluster, such as 17-2; an upgrade begins another one."""
        found: list[dict[str, Any]] = json.loads(self.pgbackrest("info", "--output=json"))
        newest = max((one for stanza in found for one in stanza["db"]), key=lambda one: int(one["id"]))
        return f"{newest['version']}-{newest['id']}"

    def bases(self) -> list[Base]:
        """The base backups without errors, the oldest first."""
        return [base for base in self.all_bases() if not base.error]

    def all_bases(self) -> list[Base]:
        """All base backups, the oldest first."""
        found: list[dict[str, Any]] = json.loads(self.pgbackrest("info", "--output=json"))
        bases = []
        for stanza in found:
            clusters = {one["database"]["id"]: one["id"] for one in stanza["archive"]}
            damaged = {one["label"] for one in stanza["backup"] if one.get("error")}
            for one in stanza["backup"]:
                if one["database"]["id"] in clusters:
                    start = position(clusters[one["database"]["id"]], one["archive"]["start"])
                    error = not damaged.isdisjoint((one["label"], *(one.get("reference") or ())))
                    bases.append(Base(one["label"], start, one["timestamp"]["stop"], one["info"]["size"], error))
        return bases

    def has(self, base: Base) -> bool:
        """Whether the archive still has a base backup; without pgBackRest, which asks for the password."""
        return (self.repository / "backup" / STANZA / base.label / "backup.manifest").exists()

    def base(self, moment: float) -> Base:
        """The base backup from which a moment is restored; see `base_for`."""
        return base_for(moment, self.all_bases(), self.segments())

    def segments(self) -> list[Segment]:
        """The segments of WAL in the archive, the oldest first."""
        found = []
        top = self.repository / "archive" / STANZA
        for path in top.glob("*/????????????????/*"):
            if match := SEGMENT.fullmatch(path.name):
                timeline, number = position(path.parent.parent.name, match[0])
                inner = str(path.relative_to(self.repository))
                found.append(Segment(inner, timeline, number, path.stat().st_mtime))
        return sorted(found, key=lambda one: (one.timeline, one.number, one.time))

    def end(self, moment: float) -> float:
        """When the newest WAL was archived that continues the base backup for a moment."""
        base = self.base(moment)
        return max((one.time for one in self.segments() if one.timeline == base.start[0]), default=base.stop)

    def restore(self, base: Base, moment: datetime | None, data: Path) -> None:
        """Restore the cluster into an empty folder. PostgreSQL gets the WAL when it starts there.

        Args:
            base: the base backup. pgBackRest itself would choose the newest one, although that has errors.
            moment: the moment; None for all WAL.
            data: the folder.
        """
        end = ["--type=default"]
        if moment:
            target = moment.strftime("%Y-%m-%d %H:%M:%S.%f+00")
            end = ["--type=time", f"--target={target}", "--target-action=promote"]
        self.pgbackrest("restore", f"--set={base.label}", f"--pg1-path={data}", *end, "--archive-mode=off")
