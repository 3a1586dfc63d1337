"""Send new WAL of the archive to a target within seconds, as files of which none is ever changed.

The nightly backup contains the whole archive. So a restore of a lost host needs that, and what was sent since then.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from backups import store
from backups.archive import SEGMENT, STANZA, Archive, Base, Segment, first_gap, since
from backups.engine import Restic, explain
from backups.postgres import Server
from backups.runs import STAMP
from backups.settings import BackupError
from backups.status import Status

PAUSE = 10.0  # seconds between two looks for new WAL
BATCH = 32 * 2**20  # bytes of WAL in a file, unless a segment alone is larger
RECORDED_EVERY = 60.0  # seconds
TIMEOUT = 300  # seconds for a file
KEPT = 2 * 86400  # seconds for which a file stays although a backup contains its WAL
MEMBER = re.compile(rf"archive/{STANZA}/(archive\.info|[\d-]+/[0-9A-F]{{16}}/{SEGMENT.pattern})")
ARCHIVER = """SELECT coalesce(last_failed_wal, '') FROM pg_stat_archiver
    WHERE last_failed_time > coalesce(last_archived_time, '-infinity')"""


@dataclass(frozen=True)
class Log:
    """The files with WAL on a target: on a host of the group backups, or in a folder of this host.

    Args:
        engine: the repository beside which they are.
    """

    engine: Restic

    def command(self, *words: str) -> list[str]:
        """The command that calls the store of the target."""
        repository = self.engine.target.repository
        if repository.startswith("/"):
            return [sys.executable, "-IB", str(Path(store.__file__)), f"{repository}.wal", *words]
        return [*self.engine.ssh_command(), "archive", *words]

    def call(self, *words: str, file: IO[bytes] | None = None, to: IO[bytes] | None = None) -> str:
        """Call the store.

        Raises:
            BackupError: when it fails.
        """
        try:
            done = subprocess.run(
                self.command(*words),
                stdin=file or subprocess.DEVNULL,
                stdout=to or subprocess.PIPE,
                stderr=subprocess.PIPE,
                timeout=TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            raise BackupError(explain(self.engine.target.name, "timed out")) from None
        if done.returncode:
            raise BackupError(explain(self.engine.target.name, done.stderr.decode(errors="replace")))
        return (done.stdout or b"").decode()

    def add(self, archive: str, content: IO[bytes]) -> None:
        """Store a file with WAL of an archive."""
        size = content.seek(0, os.SEEK_END)
        content.seek(0)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self.call("put", f"{archive}-{stamp}.tar", str(size), file=content)

    def names(self, archive: str = "", begin: float = 0) -> list[str]:
        """The files of an archive, or of all, that were sent since a moment; the oldest first."""
        listed = [line.split()[0] for line in self.call("list").splitlines()]
        own = [name for name in listed if name.startswith(archive) and begin <= sent_at(name)]
        return sorted(own, key=sent_at)

    def read(self, name: str) -> IO[bytes]:
        """The content of a file."""
        file = tempfile.TemporaryFile()  # noqa: SIM115
        self.call("get", name, to=file)
        file.seek(0)
        return file

    def prune(self, needed: Mapping[str, float], others: float) -> int:
        """Delete the files that are no longer needed; return their number.

        Args:
            needed: since when those of each archive are needed.
            others: the same for all other archives.
        """
        gone = [one for one in self.names() if sent_at(one) < needed.get(one.partition("-")[0], others) - KEPT]
        for name in gone:
            self.call("delete", name)
        return len(gone)


def sent_at(name: str) -> float:
    """When a file was sent, in seconds since 1970."""
    stamp = name.partition("-")[2].removesuffix(".tar")
    return datetime.strptime(f"{stamp[:15]}Z", STAMP).replace(tzinfo=UTC).timestamp()


def pack(archive: Archive, segments: Iterable[Segment]) -> IO[bytes]:
    """A file with segments, and with the keys of the archive, which an upgrade of PostgreSQL changes."""
    file = tempfile.TemporaryFile()  # noqa: SIM115
    with tarfile.open(fileobj=file, mode="w") as packed:
        for path in (f"archive/{STANZA}/archive.info", *(segment.path for segment in segments)):
            packed.add(archive.repository / path, path)
    return file


def unpack(file: IO[bytes], repository: Path) -> None:
    """Add the segments of a file to an archive. The host that has sent it is not trusted.

    Raises:
        BackupError: when the file has something else, or is damaged.
    """
    try:
        with file, tarfile.open(fileobj=file) as packed:
            for member in packed:
                content = packed.extractfile(member)
                if content is None or not member.isreg() or not MEMBER.fullmatch(member.name):
                    raise BackupError(f"The target has {member.name!r} among its WAL. Nothing was changed.")
                path = repository / member.name
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.write_bytes(content.read())
                os.utime(path, (member.mtime, member.mtime))
    except tarfile.TarError as error:
        raise BackupError(f"The target has a file with damaged WAL: {error}") from None


def batches(segments: Iterable[Segment], repository: Path) -> Iterable[list[Segment]]:
    """Segments in groups that are sent together."""
    group: list[Segment] = []
    size = 0
    for segment in segments:
        own = (repository / segment.path).stat().st_size
        if group and size + own > BATCH:
            yield group
            group, size = [], 0
        group.append(segment)
        size += own
    if group:
        yield group


@dataclass
class Shipper:
    """Sends the WAL of this host to a target.

    Args:
        engine: the target.
        state: folder of the program.
        archive: the archive of this host.
        server: the cluster, as a user who may see its statistics.
    """

    engine: Restic
    state: Path
    archive: Archive = Archive()  # noqa: RUF009
    server: Server = Server()  # noqa: RUF009
    recorded: float = 0
    sent: set[str] = field(default_factory=set)

    @property
    def path(self) -> Path:
        """The list of what was sent."""
        return self.state / "sent" / self.engine.target.name

    def run(self) -> None:
        """Send what is new, without end."""
        while True:
            self.once()
            time.sleep(PAUSE)

    def once(self) -> str:
        """Send what is new, and record it; return the error, if any."""
        error = ""
        before = len(self.sent)
        try:
            segments = self.archive.segments()
            self.send(segments)
        except (BackupError, OSError) as problem:
            error = str(problem)
        if error or len(self.sent) != before or time.time() - self.recorded > RECORDED_EVERY:
            self.record(error)
        return error

    def send(self, segments: list[Segment]) -> None:
        """Send the segments that were not sent."""
        if not self.sent:
            self.load({segment.path for segment in segments})
        for group in batches([one for one in segments if one.path not in self.sent], self.archive.repository):
            with pack(self.archive, group) as file:
                Log(self.engine).add(self.archive.id, file)
            with self.path.open("a") as file_sent:
                file_sent.write("".join(f"{segment.path}\n" for segment in group))
            self.sent.update(segment.path for segment in group)

    def load(self, existing: set[str]) -> None:
        """Read what was sent, without what has expired."""
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.sent = set(self.path.read_text().splitlines()) & existing
        self.path.write_text("".join(f"{path}\n" for path in sorted(self.sent)))

    def record(self, error: str) -> None:
        """Record the state of the archive, and of this target."""
        now = time.time()
        status = Status(self.state)
        waits = ""
        with contextlib.suppress(BackupError):  # a server that is down archives nothing, and other checks tell it
            waits = self.server.sql(ARCHIVER)
        known = status.read().get("archive", {})
        segments = self.archive.segments()
        bases = [Base(one["label"], tuple(one["start"]), one["stop"], one["size"]) for one in known.get("bases", [])]
        # pgBackRest deletes first a base backup, then its WAL, and then the status is told.
        bases = [one for one in bases if self.archive.has(one)]
        gaps = [gap for one in bases if (gap := first_gap(segments, one)) is not None]
        newest = max((one.time for one in segments), default=None)
        values = {"archived": newest, "since": since(bases, segments), "waits": waits}
        values["gap"] = max(gaps, default=None)
        status.record("archive", **values)
        if error:
            status.record("archive", "targets", self.engine.target.name, error=error, failed=int(now))
        else:
            status.record("archive", "targets", self.engine.target.name, error="", time=int(now))
        self.recorded = now
