"""Return a host to its confirmed release: by a failed run, or by the host itself when a run is interrupted."""

from __future__ import annotations

import contextlib
import inspect
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from ansible_collections.blueoctopus.site.plugins.module_utils import (
    files,
    instances,
    masking,
    nginx,
    release_lock,
    releases,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.files import write
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import (
    Instance,
    NotReady,
    installed_units,
    stop_builds,
    stop_other_releases,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import Lock, LockHeld, LockLost
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases, replace_link, sync_folder

NAME = "release_undo"  # name of this module
PAUSE = 1.0  # seconds between two checks of the guard
INTERRUPTED = "the run was interrupted"
GUARDS = Path("/var/lib/release-guards")  # only root can enter it
RESTARTED = "restarted"  # argument of a guard that starts with the host
UNIT = """[Unit]
Description=Restore the confirmed release: the host has restarted during a deploy or rollback
Wants=network-online.target
After=network-online.target nginx.service

[Service]
Type=exec
"""


def is_settled(store: Releases) -> bool:
    """Whether the live release runs, and no unfinished run has left anything."""
    if store.live != store.confirmed or store.unfinished() or nginx.reload_pending().exists():
        return False
    if not store.live:
        return not installed_units(store.name)
    return (
        set(installed_units(store.name)) == {store.live} and store.has_site and Instance(store, store.live).is_settled
    )


def restore(store: Releases, to: str, reason: str, failed: dict[str, str] | None = None) -> None:
    """Make a release live again, and remove all others that are not good.

    Args:
        store: the releases of the app.
        to: the release; empty to have no live release.
        reason: reason for the history, in one line.
        failed: the failed run: `action`, `release`, `by`; the unfinished run in the history when omitted.

    Raises:
        NotReady: when that release does not start. The live release then stays live.
        NginxError: when nginx can't be reloaded.
    """
    stop_builds(store.name)
    failed = failed or store.unfinished()
    commit = store.about(failed["release"]).get("commit", "") if failed else ""
    # Set when this host has confirmed another release, but the run has failed on another host.
    undo = to if to != store.confirmed else None
    due: list[tuple[str, ...]] = []
    if failed and store.root.is_dir():  # a first deploy that failed before its build has no folder
        due.append((failed["action"], failed["release"], "failed", reason, failed["by"], commit))
    if undo is not None:
        due.append(("undo", undo, "ok", reason))

    def record() -> None:
        while due:
            store.record(*due[0])
            del due[0]

    # First, so that a restore that fails is repeated in the same direction, and the failed run is in the history once.
    # On a full disk, removals free space before.
    with contextlib.suppress(OSError):
        record()
    differs = False
    if not to:
        if differs := store.site.is_symlink() or store.paths.is_symlink():
            nginx.reload_pending().touch()
        store.clear_live()
    elif to != store.live or not is_settled(store):
        instance = Instance(store, to)
        if not all((instances.UNITS / unit).exists() for unit in instance.units):
            instance.install()
        if instances.systemctl("is-active", instance.service) != "active":
            instance.start_web()
            if to != store.live:
                wait_or_stop(instance)
        instance.enable(*instance.web, *instance.background)
        if differs := store.site_differs(to):
            nginx.reload_pending().touch()
        store.make_live(to)
        instance.start_background()
    # Not only the pending file: the run of another app may have removed it.
    if Path(nginx.NGINX).exists() and (differs or nginx.reload_pending().exists()):
        nginx.reload()
    stop_other_releases(store, to)
    store.sweep(undo)
    record()


def wait_or_stop(instance: Instance) -> None:
    """Wait until a release that was started is healthy; otherwise stop it, so that the next attempt checks it again.

    Raises:
        NotReady: when it is not.
    """
    try:
        instance.wait_until_healthy()
    except NotReady:
        instances.systemctl("stop", *instance.web)
        raise


# --- the guard, which runs on the host ------------------------------------------------------------------------------


def start_guard(name: str, root: str, token: str) -> None:
    """Start a process on the host that watches the lock of a run, and restores the host when it is no longer renewed.

    The guard is a copy of these modules. It ends when the run frees the lock. If the host restarts before that, the
    guard starts again, and restores the host.

    Raises:
        OSError: when the guard can't be started.
    """
    program, unit = guard_files(name, token)
    command = ["/usr/bin/python3", "-I", str(program), name, root, token]
    try:
        program.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_program(program)
        write(unit, f"{UNIT}ExecStart={' '.join(command)} {RESTARTED}\n")
        unit_link(unit).parent.mkdir(exist_ok=True)
        replace_link(unit_link(unit), unit)
        # No reload of systemd: it reads the unit after a restart.
        start = ["systemd-run", "--quiet", "--collect", f"--unit=release-guard-{name}-{token[:8]}"]
        done = subprocess.run([*start, "--property=KillMode=mixed", *command], capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"systemd-run can't start the process that watches this run: {done.stderr.strip()}")
    except OSError:
        remove_guard(name, token)
        raise


def guard_files(name: str, token: str) -> tuple[Path, Path]:
    """The guard's program, and its unit for a restart of the host."""
    return GUARDS / f"{name}-{token[:8]}.pyz", instances.UNITS / f"release-restore-{name}-{token[:8]}.service"


def remove_guard(name: str, token: str) -> None:
    """Remove the files of a guard."""
    program, unit = guard_files(name, token)
    for path in (unit_link(unit), unit, program):
        path.unlink(missing_ok=True)


def remove_guards(name: str, but: str = "") -> None:
    """Remove the files of the guards of an app, which stay when a guard is killed.

    Args:
        name: name of the app.
        but: the token of the run whose guard is responsible now.
    """
    kept = guard_files(name, but) if but else ()
    programs = GUARDS.glob(f"{name}-{'[0-9a-f]' * 8}.pyz")
    units = [*instances.UNITS.glob(f"release-restore-{name}-{'[0-9a-f]' * 8}.service")]
    for path in {*programs, *(unit_link(unit) for unit in units), *units} - {*kept, *map(unit_link, kept)}:
        path.unlink(missing_ok=True)


def unit_link(unit: Path) -> Path:
    """The link that lets systemd start a unit after a restart."""
    return unit.parent / "multi-user.target.wants" / unit.name


def write_program(path: Path) -> None:
    """Write the modules that a guard requires as one file that Python can run."""
    package = __name__.rpartition(".")[0]
    folder = package.replace(".", "/")
    with path.open("wb") as file:
        with zipfile.ZipFile(file, "w") as program:
            program.writestr("__main__.py", f"from {package} import {NAME}\n{NAME}.guard()\n")
            for parent in (Path(folder), *Path(folder).parents[:-1]):
                program.writestr(f"{parent}/__init__.py", "")
            for module in (files, instances, masking, nginx, release_lock, releases, sys.modules[__name__]):
                program.writestr(f"{folder}/{module.__name__.rpartition('.')[2]}.py", inspect.getsource(module))
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def guard() -> None:
    """Wait for the end of a run; when it is interrupted, restore the confirmed release and free the lock."""
    name, root, token = sys.argv[1:4]
    lock, store = Lock(name), Releases(name, root)
    if RESTARTED in sys.argv:
        restore_after_restart(lock, store)
    else:
        watch(lock, store, token)
    remove_guard(name, token)


def watch(lock: Lock, store: Releases, token: str) -> None:
    """Wait until the run has freed the lock; when it is no longer renewed, restore the confirmed release.

    A later run may take over the lock, and end before it has a guard of its own. So this one watches until then.
    """
    while token in (lock.token, lock.guard):
        time.sleep(PAUSE)
        if not lock.is_stale:
            continue
        try:
            # A module of that run may still be running for a long time.
            with lock.work(lock.token, patience=3600):
                if token in (lock.token, lock.guard) and lock.adopt(token):
                    restore(store, store.confirmed, INTERRUPTED)
                    lock.free(token)
        except LockLost:
            continue  # another run has the lock now
        except Exception as error:  # retried until it succeeds, or until another run has a guard
            with contextlib.suppress(LockLost, OSError):
                lock.fail(token, error)
            print(error, file=sys.stderr, flush=True)
            time.sleep(10 * PAUSE)


def restore_after_restart(lock: Lock, store: Releases) -> None:
    """Restore the confirmed release alone, unless the host has it, or another run does the same."""
    token, failed = "", False
    while (
        failed
        or store.unfinished()
        or store.live != store.confirmed
        or installed_units(store.name).keys() - {store.confirmed}
        or any(store.leftovers())
        or store.unconfirmed()
    ):
        try:
            token = lock.acquire("this host, after a restart", token=token)
            with lock.work(token):
                restore(store, store.confirmed, INTERRUPTED)
            lock.free(token)
            failed = False
        except (LockHeld, LockLost):
            break
        except Exception as error:  # retried until it succeeds
            failed = True
            with contextlib.suppress(LockLost, OSError):
                lock.fail(token, error)
            print(error, file=sys.stderr, flush=True)
            time.sleep(10 * PAUSE)
    if token:
        lock.free(token)
