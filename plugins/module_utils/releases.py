"""The releases of an app on a host: which exist, which one is live, which are good, and the history."""

from __future__ import annotations

import contextlib
import errno
import grp
import json
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

SITES = Path("/etc/nginx/sites")


class AccountError(Exception):
    """The account with the app's name was not created for the app."""


def account_problem(name: str, home: str, root: str | Path) -> str:
    """Why an existing account can't be that of an app; empty when it was created for the app.

    Args:
        name: name of the app.
        home: home of the user with that name; empty when there is only a group with it.
        root: folder of the app.
    """
    if not home:
        return f"the group {name} already exists on this host, but not for this app"
    if home != f"{root}/data":
        return f"the user {name} already exists on this host, with the home {home}, but not for this app"
    return ""


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to the disk, so that a rename in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_link(link: Path, target: str | Path) -> None:
    """Point a symbolic link at a target atomically: it always exists, even after a power failure."""
    if link.is_symlink() and os.readlink(link) == str(target):
        return
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    sync_folder(link.parent)


def remove_link(link: Path) -> None:
    """Remove a symbolic link, if it exists; it is gone even after a power failure."""
    if link.is_symlink():
        link.unlink()
        sync_folder(link.parent)


def venv_matches(venv: Path, python: str) -> bool:
    """Whether a venv is for this interpreter and its version; an upgrade of the system changes the version."""
    real = os.path.realpath(python)
    name = os.path.basename(real)  # one without a version tells nothing
    is_same = os.path.isfile(real) and os.path.realpath(venv / "bin/python") == real
    return is_same and ("." not in name or (venv / "lib" / name).is_dir())


@dataclass(frozen=True)
class Good:
    """The good releases of an app after an event of the history.

    Args:
        stack: those to which a rollback may go, the confirmed one last.
        left: those that were rolled back from.
        stopped: whether the app was stopped.
    """

    stack: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    stopped: bool = False

    @property
    def confirmed(self) -> str:
        """The release that shall be live; empty when none shall."""
        return "" if self.stopped else (self.stack or [""])[-1]


class Releases:
    """The releases of one app below its folder.

    Args:
        name: name of the app.
        root: its folder; `releases/ID` are the releases, `live` is a link to the live one.
        sites: the folder of nginx's sites; NAME.conf in it is a link to the `site.conf` of the live release. For an app
            that shares a domain, NAME.conf in the folder `paths` beside it is a link to the folder `paths` of the live
            release, with a file for the server block of that domain.
    """

    def __init__(self, name: str, root: str | Path, sites: Path = SITES) -> None:
        self.name = name
        self.root = Path(root)
        self.folder = self.root / "releases"
        self.site = sites / f"{name}.conf"
        self.paths = sites.parent / "paths" / f"{name}.conf"
        self._history = self.root / "history.jsonl"

    def path(self, release: str) -> Path:
        return self.folder / release

    def complete(self) -> list[str]:
        """The releases whose build is complete, the oldest first."""
        return sorted(path.name for path in self.folder.glob("2*-*"))

    def about(self, release: str) -> dict[str, Any]:
        """The metadata of a release from its build: commit, version, digest, health path, time limits."""
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((self.path(release) / "release.json").read_text()))
        return {}

    def has_python(self, release: str) -> bool:
        """Whether a release can still run: its interpreter has the version for which its venv was created."""
        return venv_matches(self.path(release) / "venv", str(self.about(release).get("python", "")))

    # --- the live release -------------------------------------------------------------------------------------------

    @property
    def live(self) -> str:
        """Id of the live release; empty when there is none."""
        link = self.root / "live"
        return os.path.basename(os.readlink(link)) if link.is_symlink() else ""

    def has_paths(self, release: str) -> bool:
        """Whether a release shares the domain of another app."""
        return (self.path(release or "none") / "paths").is_dir()

    @property
    def has_site(self) -> bool:
        """Whether nginx's site, and its paths if it has any, are links to those of the live release."""
        targets = {self.site: "live/site.conf"} | ({self.paths: "live/paths"} if self.has_paths(self.live) else {})
        are_links = all(
            link.is_symlink() and os.readlink(link) == str(self.root / target) for link, target in targets.items()
        )
        return are_links and (self.paths in targets or not self.paths.is_symlink())

    def site_files(self, release: str) -> dict[str, str]:
        """The files of nginx's configuration in a release, by their names."""
        folder = self.path(release or "none")
        found = [folder / "site.conf", *folder.glob("paths/*.conf")]
        return {str(path.relative_to(folder)): path.read_text() for path in found if path.exists()}

    def site_differs(self, release: str) -> bool:
        """Whether nginx must reload for a release: its site differs from that of the live release."""
        return self.site_files(self.live) != self.site_files(release) or not self.has_site

    def make_live(self, release: str) -> None:
        """Point `live` at a release, and `before` at the previous one, where nginx retries requests that failed."""
        if self.live not in ("", release):
            replace_link(self.root / "before", f"releases/{self.live}")
        replace_link(self.root / "live", f"releases/{release}")
        self.site.parent.mkdir(exist_ok=True)
        replace_link(self.site, self.root / "live/site.conf")
        if self.has_paths(release):
            self.paths.parent.mkdir(exist_ok=True)
            replace_link(self.paths, self.root / "live/paths")
        else:
            remove_link(self.paths)

    def clear_live(self) -> None:
        """Remove the links to the live release, after the first release of an app has failed."""
        # In this order: nginx does not start with a link that leads nowhere.
        for link in (self.site, self.paths, self.root / "live"):
            remove_link(link)

    # --- the account ------------------------------------------------------------------------------------------------

    def check_account(self) -> None:
        """Check that the app's name is free as an account, or that the account was created for the app.

        Raises:
            AccountError: when the account belongs to something else.
        """
        home = ""
        try:
            home = pwd.getpwnam(self.name).pw_dir or "/"
        except KeyError:
            try:
                grp.getgrnam(self.name)
            except KeyError:
                return
        if problem := account_problem(self.name, home, self.root):
            raise AccountError(problem)

    def prepare(self) -> None:
        """Create the app's user and folders. nginx can enter them; only `data` belongs to the user."""
        self.check_account()
        account = f'u {self.name} - "Runs {self.name}" {self.root}/data /usr/sbin/nologin'
        subprocess.run(["systemd-sysusers", "--inline", account], check=True)
        owner = pwd.getpwnam(self.name)
        for folder, mode in ((self.root, 0o755), (self.folder, 0o711), (self.root / "data", 0o750)):
            if not folder.exists():
                folder.mkdir(parents=True)
                folder.chmod(mode)
        os.chown(self.root / "data", owner.pw_uid, owner.pw_gid)

    # --- history ----------------------------------------------------------------------------------------------------

    def history(self) -> list[dict[str, Any]]:
        """The events, the oldest first. Lines that a crash has truncated are skipped."""
        events = []
        with contextlib.suppress(FileNotFoundError):
            for line in self._history.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    events.append(json.loads(line))
        return events

    def record(
        self, action: str, release: str, result: str, reason: str = "", by: str = "", commit: str | None = None
    ) -> None:
        """Add an event to the history; it is on the disk when this returns.

        Args:
            action: deploy, rollback, undo, which makes the previous release live again, or stop, which ends the app.
            release: the release to make live.
            result: begun, ok or failed.
            reason: reason of a failure, in one line.
            by: user and control node of the run.
            commit: the release's commit, if the release may be removed already.
        """
        begun = self.unfinished()
        event = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "action": action,
            "release": release,
            "commit": self.about(release).get("commit", "") if commit is None else commit,
            "result": result,
            "by": by,
            "from": begun["from"] if begun else self.live,
            "reason": reason,
        }
        is_truncated = self._history.exists() and not self._history.read_bytes().endswith(b"\n")
        line = ("\n" * is_truncated + json.dumps(event) + "\n").encode()
        with self._history.open("ab", buffering=0) as history:
            size = history.tell()
            try:
                if history.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._history))
                os.fsync(history.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(self._history, size)  # remove the partial line
                raise
        self._history.chmod(0o640)
        sync_folder(self.root)

    def _replay(self, *more: dict[str, str]) -> Good:
        """The good releases after the last event, or after further ones."""
        present = set(self.complete())
        past: list[Good] = []
        good = Good()
        for event in (*self.history(), *more):
            release, action = event["release"], event["action"]
            if event["result"] != "ok" or (action != "stop" and release and release not in present):
                continue
            states = [*past, good]  # the current one, if the undone release was removed
            before = next((state for state in reversed(states) if state.confirmed == release), None)
            past.append(good)
            if action == "stop":
                good = replace(good, stopped=True)
            elif action == "undo" and before:
                good = before  # an undone release never counts as good
            elif action == "deploy" or release not in good.stack:
                stack = [*(r for r in good.stack if r != release), release]
                good = Good(stack, [r for r in good.left if r != release])
            else:
                at = good.stack.index(release) + 1
                left = [r for r in (*good.left, *good.stack[at:]) if r != release]
                good = Good(good.stack[:at], left)
        return good

    @property
    def stack(self) -> list[str]:
        """The good releases, from the oldest to the confirmed one. A rollback goes from the last to the one before."""
        return self._replay().stack

    @property
    def rolled_back(self) -> list[str]:
        """The good releases that were rolled back from. A rollback goes to one of them only if its id is given."""
        return self._replay().left

    @property
    def stopped(self) -> bool:
        """Whether the app was stopped, and not deployed since then."""
        return self._replay().stopped

    @property
    def confirmed(self) -> str:
        """The release of the last successful deploy or rollback; empty when there is none, or the app was stopped."""
        return self._replay().confirmed

    def good(self, undo: str | None = None) -> list[str]:
        """All good releases that still exist. Pruning removes the first ones first.

        Args:
            undo: the release that an undo makes live, if that is not recorded yet; empty for none.
        """
        good = self._replay(*([] if undo is None else [{"action": "undo", "release": undo, "result": "ok"}]))
        return [*good.left, *good.stack]

    def previous(self) -> str:
        """The good release before the confirmed one, to which a rollback goes; empty when there is none."""
        return self.stack[-2] if len(self.stack) > 1 else ""

    def unfinished(self) -> dict[str, Any] | None:
        """The deploy or rollback that has begun and has not ended; None when the last one has ended."""
        events = self.history()
        return events[-1] if events and events[-1]["result"] == "begun" else None

    # --- removal ----------------------------------------------------------------------------------------------------

    def remove(self, release: str) -> None:
        """Remove a release that is not live. It is renamed first, so that no partial release is left under its id."""
        if release and release != self.live and self.path(release).exists():
            removed = self.folder / f".removed-{release}"
            self.path(release).rename(removed)
            shutil.rmtree(removed)

    def sweep(self, undo: str | None = None) -> None:
        """Remove leftovers of crashes: partly built and partly removed releases, and those that are not good.

        Args:
            undo: see `good`.
        """
        for leftover in self.leftovers():
            shutil.rmtree(leftover)
        for release in self.unconfirmed(undo):
            self.remove(release)

    def unconfirmed(self, undo: str | None = None) -> set[str]:
        """The complete releases that are neither live nor good.

        Args:
            undo: see `good`.
        """
        return set(self.complete()) - {self.live, *self.good(undo)}

    def leftovers(self) -> Iterator[Path]:
        """Partly built and partly removed releases, if no run is building or removing one."""
        yield from self.folder.glob(".removed-*")
        yield from self.folder.glob(".building-*")

    def prune(self, keep: int) -> list[str]:
        """Keep some good releases, always including the live one and the good one before it; remove all others.

        Args:
            keep: number of releases to keep.

        Returns:
            The ids of the removed releases.
        """
        before = self.complete()
        kept = {self.live, self.previous(), *self.good()[-max(keep, 1) :]}
        for release in before:
            if release not in kept:
                self.remove(release)
        self.sweep()
        return [release for release in before if release not in kept]
