"""restic: one repository, and what its errors mean."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from backups.settings import CONFIG, STATE, BackupError, Target

INCOMPLETE = 3  # exit status of restic when it could not read some files
LOCKED = re.compile(r"already locked")
# A stack trace of Go, and progress.
TRACE = re.compile(r"^(\S+\.(go|s):\d+( \+0x\w+)?$|\[\d+:|main\.|runtime\.|golang\.org/|github\.com/)")
NO_REPOSITORY = re.compile(r"Is there a repository at the following location|repository does not exist")
RESTORE_WHAT_IS_LEFT = (
    "Do not prune it. Other targets are not affected. docs/backups.md shows how to restore what is left, and how to "
    "start a new one."
)
MEANINGS = [
    (
        NO_REPOSITORY.pattern,
        "The target {target} has no repository.",
        "The first backup starts one: run backup.yml. If there was one before, check that the target is mounted.",
    ),
    (
        r"wrong password or no key found",
        "The repository on {target} has another password than this host.",
        "Set backup_password in the inventory to the password that you have kept, and run site.yml. Without any of the "
        "repository's passwords, it can't be read: move it to another place on the target, and run on the host: "
        "sudo backup forget-repository {target}",
    ),
    (
        r"no space left|quota|disk full|insufficient storage|storagefull|not enough space",
        "The target {target} is full.",
        "Older backups are still there. Enlarge the target, or lower backup_keep and run: backup.yml -e prune=true",
    ),
    (
        r"repository is already locked|unable to create lock",
        "Another run uses the repository on {target}.",
        "Wait until it ends. A lock that an interrupted run has left is removed after half an hour.",
    ),
    (
        r"403 forbidden|access ?denied|blob not removed",
        "The target {target} refused the operation.",
        "If this target must not allow deletion, set append_only: true for it. Otherwise, check its keys and "
        "permissions.",
    ),
    (
        r"permission denied \(publickey|host key verification failed|remote host identification has changed",
        "The target {target} does not accept the login of this host, or has another host key.",
        "For a host of the inventory, run site.yml for both hosts. For an SFTP server, add /etc/backup/ssh_key.pub to "
        "the keys of its account, and check host_key in backup_targets.",
    ),
    (
        r"error talking http to rclone",
        "The target {target} can't be reached.",
        "Check that it is up, that its disk is not full, and that this host may log in to it.",
    ),
    (
        r"ciphertext verification failed|invalid data returned|does not match|hash mismatch|repository contains errors"
        r"|pack .* (contains|damaged|not found|is not referenced)|blob .* (not found|invalid)|error loading|truncated"
        r"|load(raw)?\(<(data|index|snapshot)|unable to load|not found in (repository|index)|illegal file size",
        "The repository on {target} is damaged.",
        RESTORE_WHAT_IS_LEFT,
    ),
    (
        r"panic: runtime error",
        "restic has crashed, as its version 0.18 of Debian 13 does when the repository on {target} is damaged.",
        RESTORE_WHAT_IS_LEFT,
    ),
    (
        r"connection refused|timed? ?out|no route|network is unreachable|could not resolve|no such host|sftp session"
        r"|connection reset|broken pipe|eof|dial tcp|lookup ",
        "The target {target} can't be reached.",
        "Check that it is up and that this host may connect to it. The next run of the timer tries again.",
    ),
]


class NoRepository(BackupError):
    """The target has no repository yet."""


def failure(target: str, output: str) -> BackupError:
    """The error to raise for what restic has printed."""
    kind = NoRepository if NO_REPOSITORY.search(output) else BackupError
    return kind(explain(target, output))


def explain(target: str, output: str) -> str:
    """The meaning of an error of restic, what to do, and its own words."""
    lines = [line.strip() for line in plain(output).splitlines() if line.strip() and not TRACE.search(line.strip())]
    said = "\n".join(dict.fromkeys(lines))
    for pattern, cause, advice in MEANINGS:
        if re.search(pattern, said, re.IGNORECASE):
            return f"{cause.format(target=target)}\n{advice.format(target=target)}\nrestic: {said[-600:]}"
    return f"restic failed for the target {target}: {said[-600:] or 'it printed no message'}"


def plain(output: str) -> str:
    """What restic has printed, with its error as text, which newer versions print as JSON with --json."""
    lines = []
    for line in output.splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            if (found := json.loads(line))["message_type"] == "exit_error":
                line = str(found["message"])
        lines.append(line)
    return "\n".join(lines)


@dataclass(frozen=True)
class Snapshot:
    """A snapshot in a repository."""

    id: str
    time: str
    tags: tuple[str, ...]
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Saved:
    """The result of a backup: the snapshot, the size of the content and of its new part, and files that it lacks."""

    id: str
    size: int
    added: int
    unreadable: tuple[str, ...] = ()


class Restic:
    """The repository of a target.

    Args:
        target: the target.
        host: name of the host whose backups are meant.
        config: folder with `password`, `ssh_key` and `known_hosts`.
        state: folder for the keys of hosts that are not pinned.
        cache: folder for restic's cache; none without it.
        limit_upload: KiB per second; 0 for no limit.
        lock: whether this user may write locks to the repository.
    """

    def __init__(
        self,
        target: Target,
        host: str,
        config: Path = CONFIG,
        state: Path = STATE,
        cache: Path | None = None,
        limit_upload: int = 0,
        lock: bool = True,
    ) -> None:
        self.target, self.host, self.config, self.state = target, host, config, state
        self.cache, self.limit_upload, self.lock = cache, limit_upload, lock

    def ssh_command(self) -> list[str]:
        """The command that logs in to the target."""
        known = f"{self.state}/known_hosts {self.config}/known_hosts"
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "15",
            "IdentitiesOnly": "yes",
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "8",
            "StrictHostKeyChecking": "yes" if self.target.pinned else "accept-new",
            "UserKnownHostsFile": f"{self.config}/known_hosts" if self.target.pinned else known,
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return [
            "ssh",
            "-F",
            "none",
            "-i",
            f"{self.config}/ssh_key",
            *words,
            "-p",
            str(self.target.port),
            self.target.ssh,
        ]

    def options(self) -> Iterator[str]:
        """restic's options for the connection."""
        scheme = self.target.repository.partition(":")[0]
        if scheme == "rclone":
            # The forced command of the host decides on the program, the folder and the permission.
            yield from ("-o", f"rclone.program={shlex.join(self.ssh_command())}")
        elif scheme == "sftp":
            yield from ("-o", f"sftp.command={shlex.join([*self.ssh_command(), '-s', 'sftp'])}")
        if self.limit_upload:
            yield from ("--limit-upload", str(self.limit_upload))
        if not self.lock:
            yield "--no-lock"
        yield from ("--cache-dir", str(self.cache)) if self.cache else ("--no-cache",)

    def argv(self, *words: str) -> list[str]:
        where = ["--repo", self.target.repository, "--password-file", f"{self.config}/password"]
        return ["restic", *where, *self.options(), *words]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "RESTIC_PROGRESS_FPS": "0.01", **self.target.environment}

    def call(self, *words: str, accept: Iterable[int] = (0,), again: bool = True) -> subprocess.CompletedProcess[str]:
        """Run restic.

        Raises:
            BackupError: when it fails, with the meaning of its error.
        """
        try:
            done = subprocess.run(
                self.argv(*words),
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",  # names of files
            )
        except FileNotFoundError:
            raise BackupError("restic is not installed on this host. Run playbooks/site.yml.") from None
        if done.returncode not in accept and again and LOCKED.search(done.stderr):
            self.call("unlock", again=False)  # removes the locks of processes that have died
            return self.call(*words, accept=accept, again=False)
        if done.returncode not in accept:
            raise failure(self.target.name, f"{done.stderr}\n{done.stdout if words[0] == 'check' else ''}")
        return done

    def create(self) -> None:
        """Create the repository."""
        self.call("init")

    def save_files(self, paths: list[Path], exclude: Iterable[str], tags: Iterable[str]) -> Saved:
        """Save files and folders."""
        excluded = [word for pattern in exclude for word in ("--exclude", pattern)]
        words = ["backup", "--json", "--host", self.host, *self.tags(tags), *excluded, "--", *map(str, paths)]
        done = self.call(*words, accept=(0, INCOMPLETE))
        return summary(done.stdout, unreadable(done.stderr) if done.returncode == INCOMPLETE else ())

    def save_output(self, command: list[str], name: str, tags: Iterable[str]) -> Saved:
        """Save what a command prints. If the command fails, nothing is saved.

        Raises:
            BackupError: when the command or restic fails.
        """
        reader, writer = os.pipe()
        # restic sees the end of its input only when both writers have closed it: the command, and this process, which
        # does that after the command has succeeded.
        words = ["backup", "--json", "--host", self.host, *self.tags(tags), "--stdin", "--stdin-filename", name]
        with contextlib.ExitStack() as stack:
            stack.callback(close_quietly, reader)
            stack.callback(close_quietly, writer)
            restic = subprocess.Popen(
                self.argv(*words),
                env=self.environment(),
                stdin=reader,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            os.close(reader)
            source = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            said = read_all(source.stderr)
            if source.wait() != 0 and not ends_by_itself(restic):
                raise BackupError(f"{command[0]} failed, so this database was not saved: {said.strip()[-600:]}")
            os.close(writer)
            output, error = restic.communicate()
        if restic.returncode != 0:
            raise failure(self.target.name, error)
        return summary(output)

    @staticmethod
    def tags(tags: Iterable[str]) -> list[str]:
        return [word for tag in tags for word in ("--tag", tag)]

    def snapshots(self, *tags: str) -> list[Snapshot]:
        """The snapshots of the host that have all given tags, the oldest first."""
        chosen = ["--tag", ",".join(tags)] if tags else []
        found: list[dict[str, Any]] = json.loads(self.call("snapshots", "--json", "--host", self.host, *chosen).stdout)
        listed = [
            Snapshot(one["id"], one["time"], tuple(one.get("tags") or ()), tuple(one["paths"])) for one in found or []
        ]
        return sorted(listed, key=lambda one: one.time)

    def restore(self, snapshot: str, folder: Path, *include: str) -> None:
        """Restore a snapshot, or some paths of it, below a folder, and verify what was written."""
        chosen = [word for path in include for word in ("--include", path)]
        self.call("restore", snapshot, "--target", str(folder), "--verify", *chosen)

    def size(self, snapshot: str) -> int:
        """The bytes that a restore of a snapshot writes."""
        return int(json.loads(self.call("stats", "--json", "--mode", "restore-size", snapshot).stdout)["total_size"])

    def files(self, snapshot: str, folder: Path) -> int:
        """The number of regular files in a folder of a snapshot, and in the folders below it."""
        # Line by line: a million files have a gigabyte of lines.
        listing = self.argv("ls", "--json", "--recursive", snapshot, str(folder))
        with subprocess.Popen(
            listing, env=self.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as restic:
            assert restic.stdout
            assert restic.stderr
            count = sum(json.loads(line.decode(errors="replace")).get("type") == "file" for line in restic.stdout)
            error = restic.stderr.read().decode(errors="replace")
        if restic.returncode:
            raise failure(self.target.name, error)
        return count

    def forget(self, snapshots: list[str]) -> None:
        """Delete snapshots and the data that no other snapshot needs."""
        self.call("unlock")  # locks of runs that have died
        if snapshots:
            self.call("forget", *snapshots)
        self.call("prune")

    def check(self, part: str) -> None:
        """Check the structure of the repository, and read a part of its data, such as 1/10."""
        self.call("check", f"--read-data-subset={part}")


def close_quietly(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)


def ends_by_itself(restic: subprocess.Popen[str], patience: float = 2) -> bool:
    """Whether restic has failed, which also makes the command fail that writes to it; otherwise, kill it."""
    try:
        restic.wait(patience)
        return True
    except subprocess.TimeoutExpired:
        restic.kill()
        restic.communicate()
        return False


def read_all(stream: IO[str] | None) -> str:
    return stream.read() if stream else ""


def summary(output: str, lacks: tuple[str, ...] = ()) -> Saved:
    """The last message of `restic backup --json`."""
    last = json.loads(output.strip().splitlines()[-1])
    return Saved(str(last["snapshot_id"]), int(last["total_bytes_processed"]), int(last["data_added"]), lacks)


def unreadable(errors: str) -> tuple[str, ...]:
    """The files that restic could not read, without those that were deleted while it ran."""
    found = []
    for line in errors.split("\n"):  # not splitlines: names of files may have other line breaks
        with contextlib.suppress(ValueError):
            message = json.loads(line)
            if isinstance(message, dict) and message.get("message_type") == "error":
                found.append((f"/{message.get('item', '').lstrip('/')}", message.get("error") or {}))
    if not found:
        return ("some files",)
    return tuple(dict.fromkeys(path for path, error in found if not is_gone(path, error)))


def is_gone(path: str, error: dict[str, Any]) -> bool:
    """Whether a file does not exist. Debian 12's restic tells no cause for folders."""
    if error.get("Err") == errno.ENOENT or "no such file" in str(error.get("message", "")):
        return True
    return "\ufffd" not in path and not os.path.lexists(path)  # with that character, it is not the name itself
