"""Return a host to its confirmed release: by a failed run, or by the host itself when a run is interrupted."""

from __future__ import annotations

import inspect
import subprocess
import sys
import time
from pathlib import Path

from ansible_collections.blueoctopus.site.plugins.module_utils import files, instances, nginx, release_lock, releases
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import (
    Instance,
    installed_units,
    stop_builds,
    stop_other_releases,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import FOLDER, Lock, LockLost
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases

NAME = "release_undo"  # name of this module
PAUSE = 1.0  # seconds between two checks of the guard
INTERRUPTED = "the run was interrupted"


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
                instance.wait_until_healthy()
        instance.enable(*instance.web, *instance.background)
        if differs := store.site_differs(to):
            nginx.reload_pending().touch()
        store.make_live(to)
        instance.start_background()
    # Not only the pending file: the run of another app may have removed it.
    if Path(nginx.NGINX).exists() and (differs or nginx.reload_pending().exists()):
        nginx.reload()
    stop_other_releases(store, to)
    if not to and not store.stopped and failed:  # this host may have confirmed it already; it would count as good
        store.remove(failed["release"])
    store.sweep()
    # Last: on a full disk, the removals have freed space.
    if failed:
        store.record(failed["action"], failed["release"], "failed", reason, failed["by"], commit)
    if to and to != store.confirmed:
        store.record("undo", to, "ok", reason)


# --- the guard, which runs on the host ------------------------------------------------------------------------------


def start_guard(name: str, root: str, token: str) -> None:
    """Start a process on the host that watches the lock of a run, and restores the host when it is no longer renewed.

    The guard consists of copies of these modules. It ends when the run frees the lock.
    """
    program = FOLDER / name / "guard"
    package = __name__.rpartition(".")[0]
    path = Path(*package.split("."))
    (program / path).mkdir(mode=0o700, parents=True, exist_ok=True)
    for module in (files, instances, nginx, release_lock, releases, sys.modules[__name__]):
        (program / path / f"{module.__name__.rsplit('.', 1)[1]}.py").write_text(inspect.getsource(module))
    for folder in (path, *path.parents[:-1]):
        (program / folder / "__init__.py").touch()
    code = f"import sys; sys.path.insert(0, {str(program)!r}); from {package} import {NAME}; {NAME}.guard()"
    command = ["systemd-run", "--quiet", "--collect", f"--unit=release-guard-{name}-{token[:8]}"]
    command += ["--property=KillMode=mixed", "/usr/bin/python3", "-I", "-c", code, name, root, token]
    subprocess.run(command, check=True, capture_output=True)


def guard() -> None:
    """Wait for the end of a run; when it is interrupted, restore the confirmed release and free the lock."""
    name, root, token = sys.argv[1:4]
    lock, store = Lock(name), Releases(name, root)
    while lock.token == token:
        time.sleep(PAUSE)
        if lock.token != token or not lock.is_stale:
            continue
        try:
            # A module of that run may still be running for a long time.
            with lock.work(token, patience=3600):
                if lock.is_stale:
                    restore(store, store.confirmed, INTERRUPTED)
                    lock.free(token)
        except LockLost:
            return
        except Exception as error:  # retried until it succeeds, or until another run has the lock
            print(error, file=sys.stderr, flush=True)
            time.sleep(10 * PAUSE)
