"""What a host knows of an app's releases: which there are, which is live, which were good, and what was done."""

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
from pathlib import Path
from typing import Any

SITES = Path("/etc/nginx/sites")


class AccountError(Exception):
    """The app's name is an account that was not made for it."""


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to the disk, so that a rename in it outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_link(link: Path, target: str | Path) -> None:
    """Point a symbolic link at a target in one step: at no time, not even after a power cut, is it missing."""
    if link.is_symlink() and os.readlink(link) == str(target):
        return
    beside = link.with_name(f".{link.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.replace(link)
    sync_folder(link.parent)


class Releases:
    """The releases of one app below its folder.

    Args:
        name: name of the app.
        root: its folder; `releases/ID` holds the releases, `live` leads to the one that serves.
        sites: the folder of nginx's sites; NAME.conf in it leads to the live release's own `site.conf`.
    """

    def __init__(self, name: str, root: str | Path, sites: Path = SITES) -> None:
        self.name = name
        self.root = Path(root)
        self.folder = self.root / "releases"
        self.site = sites / f"{name}.conf"
        self._history = self.root / "history.jsonl"

    def path(self, release: str) -> Path:
        return self.folder / release

    def complete(self) -> list[str]:
        """The releases that are built to the end, the oldest first."""
        return sorted(path.name for path in self.folder.glob("2*-*"))

    def about(self, release: str) -> dict[str, Any]:
        """What was noted of a release when it was built: commit, version, digest, health path, time limits."""
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((self.path(release) / "release.json").read_text()))
        return {}

    # --- the live release -------------------------------------------------------------------------------------------

    @property
    def live(self) -> str:
        """Id of the release that serves; empty when none does."""
        link = self.root / "live"
        return os.path.basename(os.readlink(link)) if link.is_symlink() else ""

    @property
    def has_site(self) -> bool:
        """Whether nginx's site is the live release's own."""
        return self.site.is_symlink() and os.readlink(self.site) == str(self.root / "live/site.conf")

    def site_differs(self, release: str) -> bool:
        """Whether nginx has to reload for a release: its site is not what the live one's is."""
        sites = [self.path(r) / "site.conf" for r in (self.live or "none", release)]
        texts = [site.read_text() if site.exists() else "" for site in sites]
        return texts[0] != texts[1] or not self.has_site

    def make_live(self, release: str) -> None:
        """Point `live` at a release; `before` leads to the one that nginx turns to while the new one is on trial."""
        if self.live not in ("", release):
            replace_link(self.root / "before", f"releases/{self.live}")
        replace_link(self.root / "live", f"releases/{release}")
        self.site.parent.mkdir(exist_ok=True)
        replace_link(self.site, self.root / "live/site.conf")

    def clear_live(self) -> None:
        """Have no live release: the first release of all has failed."""
        self.site.unlink(missing_ok=True)
        (self.root / "live").unlink(missing_ok=True)

    # --- the account ------------------------------------------------------------------------------------------------

    def check_account(self) -> None:
        """Make sure that the app's name is free, or the account that was made for it.

        Raises:
            AccountError: when it is somebody else's account.
        """
        try:
            home = pwd.getpwnam(self.name).pw_dir
        except KeyError:
            with contextlib.suppress(KeyError):
                grp.getgrnam(self.name)
                raise AccountError(f"the group {self.name} is on this host already, and is not this app's") from None
            return
        if home != f"{self.root}/data":
            raise AccountError(
                f"the user {self.name} is on this host already, with the home {home}, and is not this app's"
            )

    def prepare(self) -> None:
        """Make the app's user and folders: nginx passes through them, and only `data` belongs to the user."""
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
        """What was done, the oldest first. A line that a crash cut short is left out."""
        events = []
        with contextlib.suppress(FileNotFoundError):
            for line in self._history.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    events.append(json.loads(line))
        return events

    def record(
        self, action: str, release: str, result: str, reason: str = "", by: str = "", commit: str | None = None
    ) -> None:
        """Add to the history, on the disk when this returns.

        Args:
            action: deploy, rollback, or undo: what was live before is live again.
            release: what was to become live.
            result: begun, ok or failed.
            reason: why it failed, in one line.
            by: whose run it was.
            commit: the release's commit, where the release itself can't be asked any more.
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
        cut_short = self._history.exists() and not self._history.read_bytes().endswith(b"\n")
        line = ("\n" * cut_short + json.dumps(event) + "\n").encode()
        with self._history.open("ab", buffering=0) as history:
            size = history.tell()
            try:
                if history.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._history))
                os.fsync(history.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(self._history, size)  # half a line would be taken for none
                raise
        self._history.chmod(0o640)
        sync_folder(self.root)

    def _replay(self) -> tuple[list[str], list[str]]:
        """The releases that a rollback goes back through, the confirmed one last; and those that were left behind."""
        there = set(self.complete())
        stack: list[str] = []
        left: list[str] = []
        past: list[tuple[list[str], list[str]]] = []
        for event in self.history():
            release = event["release"]
            if event["result"] != "ok" or release not in there:
                continue
            states = [*past, (stack, left)]  # the present one, when what was undone is gone from the disk
            before = next((s for s in reversed(states) if s[0][-1:] == [release]), None)
            past.append((stack, left))
            if event["action"] == "undo" and before:
                stack, left = before  # what undo takes back never was good
            elif event["action"] == "deploy" or release not in stack:
                stack = [*(r for r in stack if r != release), release]
            else:
                at = stack.index(release) + 1
                stack, left = stack[:at], [*left, *stack[at:]]
            left = [r for r in left if r != release]
        return stack, left

    @property
    def stack(self) -> list[str]:
        """The good releases in the order in which a rollback goes back through them; the confirmed one is the last."""
        return self._replay()[0]

    @property
    def rolled_back(self) -> list[str]:
        """The good releases that were rolled back from: a rollback goes to one of them only when it is named."""
        return self._replay()[1]

    @property
    def confirmed(self) -> str:
        """The release that serves by the last deploy or rollback that came to its end; empty when there is none."""
        return (self.stack or [""])[-1]

    def good(self) -> list[str]:
        """All releases that proved themselves and are still there; those to keep first stand last."""
        stack, left = self._replay()
        return [*left, *stack]

    def previous(self) -> str:
        """The release that a rollback goes to; empty when there is none."""
        return self.stack[-2] if len(self.stack) > 1 else ""

    def unfinished(self) -> dict[str, Any] | None:
        """The deploy or rollback that has begun and did not come to its end; None when the last one did."""
        events = self.history()
        return events[-1] if events and events[-1]["result"] == "begun" else None

    # --- removal ----------------------------------------------------------------------------------------------------

    def remove(self, release: str) -> None:
        """Remove a release that is not live: out of sight in one step, then for good."""
        if release and release != self.live and self.path(release).exists():
            gone = self.folder / f".removed-{release}"
            self.path(release).rename(gone)
            shutil.rmtree(gone)

    def sweep(self) -> None:
        """Remove what crashes left: half-built and half-removed releases, and those that never proved themselves."""
        for left_over in self._left_overs():
            shutil.rmtree(left_over)
        for release in set(self.complete()) - {self.live, *self.good()}:
            self.remove(release)

    def _left_overs(self) -> Iterator[Path]:
        yield from self.folder.glob(".removed-*")
        yield from self.folder.glob(".building-*")

    def prune(self, keep: int) -> list[str]:
        """Keep that many good releases, the live one and the last good one among them; remove all others.

        Returns:
            The ids that are gone.
        """
        before = self.complete()
        kept = {self.live, self.previous(), *self.good()[-max(keep, 1) :]}
        for release in before:
            if release not in kept:
                self.remove(release)
        self.sweep()
        return [release for release in before if release not in kept]
