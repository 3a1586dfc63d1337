"""Stop an app, and remove it from a host."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.blueoctopus.site.plugins.module_utils import nginx
from ansible_collections.blueoctopus.site.plugins.module_utils.app_redis import Redis
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import (
    ANY_RELEASE,
    Instance,
    installed_units,
    remove_units,
    stop_builds,
    systemctl,
)
from ansible_collections.blueoctopus.site.plugins.module_utils.release_undo import INTERRUPTED
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import SITES, Releases, remove_link

APPS = Path("/srv")
BUILD_CACHES = Path("/var/cache/private")
MOUNTS = Path("/proc/self/mountinfo")


def installed_apps(root: Path = APPS, sites: Path = SITES) -> list[str]:
    """The apps of a host: the accounts whose home is the data folder of an app, and the folders with releases.

    An app whose removal was interrupted is among them until its last part is gone.
    """
    accounts = [user.pw_name for user in pwd.getpwall() if user.pw_dir == f"{root / user.pw_name}/data"]
    folders = [path.parent.name for path in root.glob("*/releases") if (path.parent / "data").is_dir()]
    linked = [link.stem for link in sites.glob("*.conf") if link.is_symlink() and not link.exists()]
    return sorted({*accounts, *folders, *linked})


def mount_points() -> list[Path]:
    """Where file systems are mounted: the fifth field of each line, with octal codes for spaces."""
    fields = [line.split()[4] for line in MOUNTS.read_text().splitlines()]
    return [Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), field)) for field in fields]


class Removal:
    """The removal of an app in steps that can each be repeated.

    Args:
        store: the releases of the app.
    """

    def __init__(self, store: Releases) -> None:
        self.store = store
        self.redis = Redis(store.name)

    @property
    def runs(self) -> bool:
        """Whether a unit or nginx's site of the app is left."""
        links = (self.store.site, self.store.paths, self.store.root / "live")
        running = systemctl("list-units", "--plain", "--no-legend", "--state=active,activating", *self.services)
        units = installed_units(self.store.name) or self.redis.unit.exists()
        return bool(units or running) or any(link.is_symlink() for link in links)

    @property
    def services(self) -> list[str]:
        """Patterns of all its services: web, processes, jobs of timers, and commands of the program app."""
        name = self.store.name
        # Not NAME@*: user@ and postgresql@ are also units of other programs.
        return [f"{name}@{ANY_RELEASE}.service", f"{name}.*@{ANY_RELEASE}.service", f"{name}.run-*.service"]

    def stop(self, by: str) -> None:
        """Remove the site from nginx, then the units, with that of its Redis. Releases and data stay.

        Args:
            by: user and control node of the run, for the history.

        Raises:
            NginxError: when nginx can't be reloaded.
        """
        store = self.store
        if begun := store.unfinished():
            with contextlib.suppress(OSError):  # a removal frees space on a full disk
                store.record(begun["action"], begun["release"], "failed", INTERRUPTED, begun["by"])
        stop_builds(store.name)
        # First: from here on, an interrupted run is not undone, and no run starts the app again.
        if store.folder.is_dir() and not store.stopped and store.stack:
            store.record("stop", store.live or store.stack[-1], "ok", by=by)
        if had_site := any(link.is_symlink() for link in (store.site, store.paths)):
            nginx.reload_pending().touch()
            remove_link(store.site)
            remove_link(store.paths)
        # Not only the pending file: the run of another app may have removed it.
        if Path(nginx.NGINX).exists() and (had_site or nginx.reload_pending().exists()):
            nginx.reload()
        for release, units in installed_units(store.name).items():
            Instance(store, release).wait_until_drained()
            remove_units(units)
        systemctl("stop", *self.services)  # jobs and commands that still run
        self.redis.stop()
        for link in ("live", "before"):
            (store.root / link).unlink(missing_ok=True)
        if store.history():  # without one, no release is known as good
            with contextlib.suppress(OSError):  # the app has stopped; the next deploy or the removal tries again
                store.sweep()

    def remaining(self, data: bool) -> Iterator[Path]:
        """The files of a stopped app on the host; its data only on request."""
        store = self.store
        kept = set() if data else {store.root / "data", store.root / "history.jsonl"}
        if not data:  # former data that restores have kept
            kept |= {path for kind in ("before", "undone") for path in store.root.glob(f"data.{kind}-*")}
        if store.root.is_dir():
            yield from (path for path in sorted(store.root.iterdir()) if path not in kept)
        cache = BUILD_CACHES / f"release-build-{store.name}"
        if cache.is_dir():
            yield cache
        if data:
            redis = [self.redis.data, *sorted(self.redis.data.parent.glob(f"{store.name}.*"))]
            yield from (path for path in [*redis, store.root] if path.is_dir())

    def has_account(self) -> bool:
        """Whether the app's user exists."""
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(self.store.name).pw_dir == f"{self.store.root}/data"
        return False

    def check(self, data: bool) -> None:
        """Check that what a removal deletes is neither a link nor a mount point, and has no mount point below it.

        Raises:
            OSError: with the link or the mount point.
        """
        mounts = mount_points()
        for path in self.remaining(data):
            found = [mount for mount in mounts if path in (mount, *mount.parents)]
            found += [path] if path.is_symlink() and path.name not in ("live", "before") else []
            if found:
                raise OSError(
                    f"{found[0]} is a link or a mount point. Delete its content and unmount or remove it first"
                )

    def remove(self, data: bool) -> None:
        """Remove the releases of a stopped app; on request also its data, its history and its user."""
        for path in list(self.remaining(data)):
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)
            else:
                shutil.rmtree(path)
        link = BUILD_CACHES.parent / f"release-build-{self.store.name}"  # systemd's, to the removed cache
        if link.is_symlink() and not os.path.exists(link):
            link.unlink()
        if data and self.has_account():  # last, as it is how an interrupted removal is found
            subprocess.run(["userdel", self.store.name], check=True, capture_output=True, text=True)
