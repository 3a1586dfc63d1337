"""What a host knows of an app's releases: which there are, which is live, which were good, and who is deploying."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

UNITS = Path("/etc/systemd/system")
STAMPS = Path("/var/lib/systemd/timers")  # when persistent timers ran last


def systemctl(*argv: str) -> str:
    """Call systemctl and return what it printed; a failure shows in the units' states, where it is looked for."""
    return subprocess.run(["systemctl", *argv], capture_output=True, text=True).stdout.strip()


class BusyError(Exception):
    """The module of a former run is still at work."""


class Releases:
    """The releases of one app below its folder.

    Args:
        name: name of the app.
        root: its folder; `releases/ID` holds the releases, `live` leads to the one that serves.
    """

    def __init__(self, name: str, root: str | Path) -> None:
        self.name = name
        self.root = Path(root)
        self.folder = self.root / "releases"
        self._history = self.root / "history.jsonl"
        self._lock = self.root / "deploy.lock"

    def path(self, release: str) -> Path:
        return self.folder / release

    def complete(self) -> list[str]:
        """The releases that are built to the end, the oldest first."""
        return sorted(path.name for path in self.folder.glob("2*-*"))

    def find(self, digest: str, still_fits: Callable[[Path], bool]) -> str | None:
        """The complete release with that digest that still fits the machine."""
        same = (release for release in reversed(self.complete()) if release.endswith(f"-{digest}"))
        return next((release for release in same if still_fits(self.path(release))), None)

    @property
    def live(self) -> str:
        """Id of the release that serves; empty when none does."""
        link = self.root / "live"
        return os.path.basename(os.readlink(link)) if link.is_symlink() else ""

    def make_live(self, release: str) -> None:
        """Point the link `live` at a release in one step; `before` is where nginx turns when that one dies."""
        if self.live not in ("", release):
            self._point("before", self.live)
        self._point("live", release)

    def _point(self, link: str, release: str) -> None:
        """Point a link at a release in one step: at no time is it missing."""
        beside = self.root / f".{link}.new"
        beside.unlink(missing_ok=True)
        beside.symlink_to(f"releases/{release}")
        beside.replace(self.root / link)

    def no_live(self) -> None:
        """Take the link away: the first release of all has failed."""
        (self.root / "live").unlink(missing_ok=True)

    def prepare(self) -> None:
        """Make the app's user and folders: nginx passes through them, and only `data` belongs to the user."""
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
            for line in self._history.read_text().splitlines():
                with contextlib.suppress(ValueError):
                    events.append(json.loads(line))
        return events

    def note(self, action: str, release: str, result: str, reason: str = "") -> None:
        """Add to the history what whoever has the lock did.

        Args:
            action: deploy or rollback.
            release: what was to become live.
            result: ok or failed.
            reason: why it failed, in one line.
        """
        event = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "action": action,
            "release": release,
            "commit": self.about(release).get("commit", ""),
            "result": result,
            "by": (self.holder() or {}).get("by", ""),
            "reason": reason,
        }
        cut_short = self._history.exists() and not self._history.read_bytes().endswith(b"\n")
        with self._history.open("a") as history:
            history.write("\n" * cut_short + json.dumps(event) + "\n")
            history.flush()
            os.fsync(history.fileno())
        self._history.chmod(0o640)

    def about(self, release: str) -> dict[str, Any]:
        """What was noted of a release when it was built: commit, version, who, when."""
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((self.path(release) / "release.json").read_text()))
        return {}

    def good(self) -> list[str]:
        """The releases that were live and are still there, the one that was live last at the end."""
        there = set(self.complete())
        lived = [e["release"] for e in self.history() if e["result"] == "ok" and e["release"] in there]
        return sorted(set(lived), key=lambda release: len(lived) - lived[::-1].index(release))

    def previous(self) -> str:
        """The last good release before the live one; empty when there is none."""
        return next((release for release in reversed(self.good()) if release != self.live), "")

    # --- removal ----------------------------------------------------------------------------------------------------

    def remove(self, release: str) -> None:
        """Remove a release that is not live: out of sight in one step, then for good."""
        if release and release != self.live and self.path(release).exists():
            gone = self.folder / f".removed-{release}"
            self.path(release).rename(gone)
            shutil.rmtree(gone)

    def prune(self, keep: int) -> list[str]:
        """Keep that many good releases, the live one and the last good one among them; remove all others.

        Returns:
            The ids that are gone.
        """
        for left_over in (*self.folder.glob(".removed-*"), *self.folder.glob(".building-*")):
            shutil.rmtree(left_over)
        kept = {self.live, self.previous(), *self.good()[-max(keep, 1) :]}
        gone = [release for release in self.complete() if release not in kept]
        for release in gone:
            self.remove(release)
        return gone

    # --- one deploy at a time ---------------------------------------------------------------------------------------

    def lock(self, holder: dict[str, Any], take_over: bool = False) -> dict[str, Any] | None:
        """Take the lock of this app.

        Args:
            holder: who takes it: `by`, `computer`, `process` and `since`.
            take_over: take it from whoever has it.

        Returns:
            None when it is ours now; otherwise who has it.
        """
        if take_over:
            self._lock.unlink(missing_ok=True)
        with contextlib.suppress(FileExistsError):
            with os.fdopen(os.open(self._lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640), "w") as file:
                json.dump(holder, file)
            return None
        other = self.holder()
        if other is None:
            return self.lock(holder, take_over=True)  # cut short by a crash: nobody's
        same = all(other.get(key) == holder.get(key) for key in ("computer", "process"))
        return None if same else other

    def holder(self) -> dict[str, Any] | None:
        """Who has the lock."""
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads(self._lock.read_text()))
        return None

    def unlock(self) -> None:
        self._lock.unlink(missing_ok=True)

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Hold off others while one of our modules changes something.

        The lock above belongs to a run of the control node. This one belongs to a process of the host, which goes on
        when its run is cut off; the kernel lets go of it when the process ends, however it ends.

        Raises:
            BusyError: when the module of a former run is still at work.
        """
        with (self.root / ".busy").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    "A former deploy that was cut off is still at work on this host. Run again in a minute."
                ) from None
            yield

    # --- units ------------------------------------------------------------------------------------------------------

    def units(self, release: str) -> list[str]:
        """The systemd units that a release runs as, those of the web first: their names, its id in them."""
        names = sorted(path.name for path in (self.path(release) / "units").glob("*@.*"))
        web = [name for name in names if name.startswith(f"{self.name}@")]
        return [name.replace("@.", f"@{release}.") for name in [*web, *(n for n in names if n not in web)]]

    def installed(self) -> dict[str, list[str]]:
        """The units of this app that systemd knows, by release. Names of processes follow a dot: NAME.PROCESS@ID."""
        found: dict[str, list[str]] = {}
        for pattern in (f"{self.name}@*", f"{self.name}.*@*"):
            for path in sorted(UNITS.glob(pattern)):
                release = path.name.split("@", 1)[1].rsplit(".", 1)[0]
                found.setdefault(release, []).append(path.name)
        return found

    def install(self, release: str) -> list[str]:
        """Give systemd the units of a release."""
        units = self.units(release)
        for unit in units:
            template = unit.replace(f"@{release}.", "@.")
            shutil.copyfile(self.path(release) / "units" / template, UNITS / unit)
        systemctl("daemon-reload")
        systemctl("reset-failed", *units)
        return units

    def uninstall(self, units: Iterable[str]) -> None:
        """Stop units, letting them finish, and take them away."""
        units = list(units)
        # A job that a timer has started may finish, in the release it belongs to.
        jobs = {unit.replace(".timer", ".service") for unit in units if unit.endswith(".timer")}
        # Services first: a socket that is gone turns away whom its service could still have served.
        for kind in (".timer", ".service", ".socket"):
            chosen = [unit for unit in units if unit.endswith(kind) and unit not in jobs]
            if chosen:
                systemctl("stop", *chosen)
        systemctl("disable", "--quiet", "--no-reload", *units)
        systemctl("reset-failed", *units)
        for unit in units:
            (UNITS / unit).unlink(missing_ok=True)
            (STAMPS / f"stamp-{unit}").unlink(missing_ok=True)
        systemctl("daemon-reload")
