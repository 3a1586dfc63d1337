"""The store that keeps the WAL of other hosts, as sshd runs it: a host can add and read, and change nothing."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.modules import backup_access
from backups import runs, store
from backups.saving import Saver
from backups.settings import BackupError
from backups.shipping import unpack

NAME = f"{'a' * 32}-20260102T030405.000006Z.tar"
LATER = f"{'a' * 32}-20260102T030406.000006Z.tar"


def call(folder: Path, words: str, given: bytes = b"", *options: str) -> subprocess.CompletedProcess[bytes]:
    """Call the store as the forced command of a key does."""
    argv = [sys.executable, "-IB", store.__file__, *options, str(folder)]
    environment = {**os.environ, "SSH_ORIGINAL_COMMAND": f"archive {words}"}
    return subprocess.run(argv, input=given, env=environment, capture_output=True)


def test_a_file_is_stored_and_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "web1"
    assert call(folder, "list").stdout == b""
    assert call(folder, f"put {LATER} 3", b"two", "--append-only").returncode == 0
    assert call(folder, f"put {NAME} 3", b"one", "--append-only").returncode == 0
    assert call(folder, "list", b"", "--append-only").stdout.decode().splitlines() == [f"{NAME} 3", f"{LATER} 3"]
    assert call(folder, f"get {NAME}", b"", "--append-only").stdout == b"one"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (f"put {NAME} 3", "exists"),
        (f"delete {NAME}", "can only add"),
        ("put ../other 3", "is not a name"),
        ("get ../secret", "is not a name"),
        ("get /etc/passwd", "is not a name"),
        (f"put {LATER} 9", "6 bytes too early"),
        (f"put {LATER} -1", "put NAME SIZE"),
        ("sh", "put NAME SIZE"),
        ("", "put NAME SIZE"),
    ],
)
def test_a_stolen_host_changes_deletes_and_reads_nothing_else(tmp_path: Path, words: str, said: str) -> None:
    folder = tmp_path / "web1"
    (tmp_path / "secret").write_text("secret")
    call(folder, f"put {NAME} 3", b"one")
    done = call(folder, words, b"bad", "--append-only")
    assert done.returncode == 1
    assert said in done.stderr.decode()
    assert b"secret" not in done.stdout
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {NAME: b"one"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret", "web1"]


def test_only_a_key_for_pruning_deletes(tmp_path: Path) -> None:
    call(tmp_path, f"put {NAME} 3", b"one")
    assert call(tmp_path, f"delete {NAME}").returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["archive; touch hacked", "$(touch hacked)", "archive `touch hacked` x", "-c touch"])
def test_the_words_of_a_client_reach_no_command_line(tmp_path: Path, words: str) -> None:
    line = backup_access.line("web1", "ssh-ed25519 AAAA", "backups", tmp_path, 0)
    command = line.partition('command="')[2].partition('"')[0].replace("/usr/local/lib/backup/store.py", store.__file__)
    environment = {"PATH": os.environ["PATH"], "SSH_ORIGINAL_COMMAND": words}
    subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "archive/main/../../x", "archive/main/15-1/x"])
def test_a_file_of_a_stolen_host_writes_nothing_but_wal(tmp_path: Path, name: str) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as packed:
        packed.addfile(tarfile.TarInfo(name), io.BytesIO())
    file.seek(0)
    with pytest.raises(BackupError, match="among its WAL"):
        unpack(file, tmp_path / "inner")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.needs("restic")
def test_the_wal_of_a_lost_host_stays_until_its_backups_have_expired(saver: Saver, tmp_path: Path) -> None:
    """The host that replaces it has an archive of its own. No backup of that contains WAL of the old one."""
    target, restic = saver.settings.target(), saver.engine(saver.settings.target())
    old, new, expired, half = ("a" * 32, "b" * 32, "c" * 32, "d" * 32)
    restic.create()
    days = ((old, 10, "complete"), (half, 12, "incomplete"), (half, 13, ""), (new, 20, "complete"))
    for archive, day, mark in days:
        stamp = f"202601{day}T030000Z"
        tags = [*runs.tags_of("postgresql.cluster", "files", stamp), f"archive:{archive}"]
        restic.save_files([tmp_path / "etc"], [], tags)
        if mark:
            restic.save_output(["echo"], f"/{mark}", runs.tags_of("postgresql.cluster", mark, stamp))
    log = tmp_path / "repository.wal"
    log.mkdir()
    names = [
        f"{archive}-202601{day}T120000.000000Z.tar"
        for archive, days in (
            (old, ("01", "10", "11")),
            (new, ("11", "19", "21")),
            (expired, ("02",)),
            (half, ("09", "12")),
        )
        for day in days
    ]
    for name in names:
        (log / name).touch()
    saver.prune(target)
    kept = sorted(path.name for path in log.iterdir())
    assert kept == [names[1], names[2], names[4], names[5], names[8]]
    restic.forget([one.id for tag in ("kind:complete", f"archive:{new}") for one in restic.snapshots(tag)])
    (log / names[6]).touch()
    saver.prune(target)  # without any complete backup, nothing tells how old the WAL of an unknown archive may be
    assert sorted(path.name for path in log.iterdir()) == [*kept[:-1], names[6], kept[-1]]
