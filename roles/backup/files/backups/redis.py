"""The data of the apps in Redis or Valkey: a dump that the instance itself writes, and its way back into the instance.

Only root and the app reach its socket. So root lets each instance write its dump, and the backup then reads it.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import IO, Any

from backups.placing import check_space, restored
from backups.plans import Plan
from backups.settings import App, BackupError

PATIENCE = 600.0  # seconds for a dump, and for reading one
ANSWER = 60.0  # seconds for an answer of an instance
SAVING = "Background save already in progress"
# Without append-only files, the dump is the data. Beside them, it is not read when an instance starts.
NAMES = {"rdb": "dump.rdb", "aof": "backup.rdb"}
MANIFEST = "file appendonly.aof.1.base.rdb seq 1 type b\n"


def dump_of(app: App) -> Path:
    """The dump of the instance of an app."""
    return Path(app.redis_folder, NAMES[app.redis])


def call(program: str, *words: str, user: str = "", file: IO[bytes] | None = None) -> tuple[int, str]:
    """Run a program of Redis or Valkey, whichever the host has; return its exit status and what it has printed.

    Args:
        program: its name without that of the server, such as cli.
        words: its arguments.
        user: user to be; the current one when empty.
        file: its input.
    """
    found = shutil.which(f"valkey-{program}") or f"redis-{program}"
    become = ["runuser", "-u", user, "--"] if user else []
    given: dict[str, Any] = {"stdin": file or subprocess.DEVNULL, "stderr": subprocess.STDOUT, "cwd": "/"}
    patience = ANSWER if program == "cli" else PATIENCE
    try:
        done = subprocess.run([*become, found, *words], stdout=subprocess.PIPE, timeout=patience, **given)
    except FileNotFoundError:
        raise BackupError(f"{found} is not installed on this host. Run playbooks/site.yml.") from None
    except subprocess.TimeoutExpired:
        raise BackupError(f"{found} did not answer within {patience:.0f} seconds.") from None
    return done.returncode, done.stdout.decode(errors="replace").strip()


def dump(app: App, user: str = "") -> None:
    """Let the instance of an app write its dump.

    Args:
        app: the app.
        user: user of the app; the current one when empty.

    Raises:
        BackupError: when it does not.
    """

    def ask(*words: str) -> str:
        code, said = call("cli", "-s", app.redis_socket, *words, user=user)
        if SAVING not in said and (code or said.startswith(("ERR", "LOADING", "Error", "NOAUTH", "MISCONF"))):
            raise BackupError(
                f"Redis of {app.name} has not written its data: {said[-300:]}\nSee: journalctl -u app-redis-{app.name}"
            )
        return said

    def info() -> dict[str, str]:
        return dict(line.strip().split(":", 1) for line in ask("INFO", "persistence").splitlines() if ":" in line)

    deadline = time.monotonic() + PATIENCE
    begun: int | None = None
    while True:
        found = info()
        saves, writes = found["rdb_bgsave_in_progress"] == "1", found.get("aof_rewrite_in_progress") == "1"
        if begun is None and not saves:
            now = int(time.time())
            said = ask("BGSAVE", "SCHEDULE")  # after a rewrite of the append-only file, if one is running
            begun = None if SAVING in said else now  # another one has begun in this moment
        elif begun and not saves and int(found["rdb_last_save_time"]) >= begun:
            return
        elif begun and not saves and not writes and found["rdb_last_bgsave_status"] != "ok":
            raise BackupError(f"Redis of {app.name} could not write its data.\nSee: journalctl -u app-redis-{app.name}")
        if time.monotonic() > deadline:
            raise BackupError(f"Redis of {app.name} has not written its data within {PATIENCE:.0f} seconds.")
        time.sleep(0.1)


def problem(app: App, result: dict[str, Any], run: str) -> str:
    """Why the dump of an app is not one of this run; empty if it is.

    Args:
        app: the app.
        result: what the status has about its dump.
        run: the identity of this run.
    """
    if result.get("error"):
        return str(result["error"])
    if result.get("run") != run:
        return f"Redis of {app.name} was not asked for its data. Back up with: sudo backup run {app.name}"
    found = dump_of(app)
    return "" if found.is_file() and not found.is_symlink() else f"{found} is missing. Run playbooks/site.yml."


def check(path: Path, user: str = "") -> int:
    """Read a dump from its beginning to its end, with its checksum, and return the number of its keys.

    Args:
        path: the dump, which may be in a folder that the user can't enter.
        user: user to be; the current one when empty.

    Raises:
        BackupError: when it is damaged, or of a version that this host can't read.
    """
    with path.open("rb") as file:
        code, said = call("check-rdb", "/dev/stdin" if user else str(path), user=user, file=file)
    keys = re.search(r"\[info\] (\d+) keys read", said)
    if code or not keys:
        reason = next((line for line in said.splitlines() if "ERROR" not in line and "[offset 0]" not in line), said)
        raise BackupError(
            f"This host can't read the data of Redis in the backup: {reason}\nA backup of Valkey (Debian 13) can only "
            "be restored on Debian 13 or newer. Otherwise, choose another backup: -e at=TIME"
        )
    return int(keys[1])


def put(plan: Plan, folder: Path, name: str, owner: pwd.struct_passwd) -> None:
    """Make the folder of the instance from a restored dump, beside the live one; for a copy, one with the dump alone.

    Args:
        plan: the restore.
        folder: where the backup was restored.
        name: name of the dump; empty if the backup has none.
        owner: user of the app.

    Raises:
        BackupError: when the dump can't be read, or the disk is too full.
    """
    if not name:
        plan.redis = ""
        plan.note("The backup has no data of Redis, so that of this host was not changed.")
        return
    if name not in NAMES.values():
        raise BackupError("The backup has no valid description of its data of Redis. Nothing was changed.")
    found, into = restored(folder, Path(plan.redis_folder, name)), plan.restored_redis
    if not found.is_file():
        raise BackupError(f"The backup has no file at {plan.redis_folder}/{name}. Nothing was changed.")
    if not Path(plan.redis_folder).is_dir():
        raise BackupError(f"This host has no instance of Redis for {plan.app}. Run playbooks/site.yml first.")
    check_space({into.parent: found.stat().st_size})
    own = os.geteuid() == 0
    if own:
        os.chown(found, owner.pw_uid, owner.pw_gid)
    plan.facts["keys"] = check(found, owner.pw_name if own else "")
    into.mkdir(mode=0o700)
    base = Path(NAMES["rdb"])
    if plan.redis == "aof" and not plan.as_name:
        base = Path("appendonlydir/appendonly.aof.1.base.rdb")
        (into / base.parent).mkdir(mode=0o700)
        (into / base.parent / "appendonly.aof.manifest").write_text(MANIFEST)
    shutil.copyfile(found, into / base)
    for path in (into, *into.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
        if own:
            os.chown(path, owner.pw_uid, owner.pw_gid)
