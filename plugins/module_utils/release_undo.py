"""Bring a host back to its confirmed release: what a failed run does, and the host itself when its run is cut off."""

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
    stop_other_releases,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.release_lock import FOLDER, Lock, LockLost
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases

NAME = "release_undo"  # of this module
PAUSE = 1.0  # seconds between two looks of the guard
CUT_OFF = "the run was cut off"


def is_settled(store: Releases) -> bool:
    """Whether nothing is left of a run that did not come to its end, and the live release runs."""
    if store.live != store.confirmed or store.unfinished() or nginx.reload_pending().exists():
        return False
    if not store.live:
        return not installed_units(store.name)
    return (
        set(installed_units(store.name)) == {store.live} and store.has_site and Instance(store, store.live).is_settled
    )


def restore(store: Releases, to: str, reason: str, failed: dict[str, str] | None = None) -> None:
    """Have a release serve again, and remove every other one that is not good.

    Args:
        store: the releases of the app.
        to: the release; empty when there was none before.
        reason: why, in one line, for the history.
        failed: what has failed: `action`, `release`, `by`; what the history says of it when left out.

    Raises:
        NotReady: when that release does not come up. Then what serves goes on.
        NginxError: when nginx can't be reloaded.
    """
    failed = failed or store.unfinished()
    commit = store.about(failed["release"]).get("commit", "") if failed else ""
    differs = False
    if not to:
        differs = store.site.is_symlink()
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
    # Not by the mark alone: the run of another app may have taken that away.
    if Path(nginx.NGINX).exists() and (differs or nginx.reload_pending().exists()):
        nginx.reload()
    stop_other_releases(store, to)
    if not to:  # also one that this host had confirmed already; it would count as good
        for release in store.complete():
            store.remove(release)
    store.sweep()
    # Last: on a full disk, there is room again by now.
    if failed:
        store.record(failed["action"], failed["release"], "failed", reason, failed["by"], commit)
    if to and to != store.confirmed:
        store.record("undo", to, "ok", reason)


# --- the guard: the host's own end of a run --------------------------------------------------------------------------


def start_guard(name: str, root: str, token: str) -> None:
    """Have the host watch the lock of a run, and bring itself back when that is not renewed any more.

    The guard is this program, as it came with the module that calls this; it ends with the lock.
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
    """Wait for the end of a run; when it was cut off, bring the host back and give its lock back."""
    name, root, token = sys.argv[1:4]
    lock, store = Lock(name), Releases(name, root)
    while lock.token == token:
        time.sleep(PAUSE)
        if lock.token != token or not lock.is_stale:
            continue
        try:
            # However long a module of that run is still at work.
            with lock.work(token, patience=3600):
                if lock.is_stale:
                    restore(store, store.confirmed, CUT_OFF)
                    lock.free(token)
        except LockLost:
            return
        except Exception as error:  # tried again until it works, or another run has the lock
            print(error, file=sys.stderr, flush=True)
            time.sleep(10 * PAUSE)
