"""The drill: restore the newest backup of each app into a scratch folder and a scratch database, and check them."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backups import redis, runs
from backups.copies import problems
from backups.engine import Restic
from backups.placing import SPARE, put_copies, restored
from backups.postgres import Server
from backups.saving import CHECKED_EVERY, MANIFEST
from backups.settings import APPS, CONFIG, STATE, App, BackupError, Settings, Target
from backups.status import Status, locked, shared

COMMAND_TIMEOUT = 3600  # seconds


@dataclass
class Drill:
    """Restores and checks the newest backups.

    Args:
        settings: the apps and targets of this host.
        state: folder for the status and for scratch copies.
        config: folder with the keys.
        server: the PostgreSQL cluster, as a user who may create databases, and sees no other one.
    """

    settings: Settings
    state: Path = STATE
    config: Path = CONFIG
    server: Server = Server()  # noqa: RUF009

    @property
    def target(self) -> Target:
        """The target of this week; the targets alternate weekly."""
        if not self.settings.targets:
            return self.settings.target()  # which explains it
        return self.settings.targets[int(time.time() // CHECKED_EVERY) % len(self.settings.targets)]

    def run(self, names: list[str]) -> list[str]:
        """Drill some apps, or all, and record the results; return what failed."""
        chosen = [self.settings.app(name) for name in names] or list(self.settings.apps)
        failures = []
        with locked(shared(self.state) / "drill.lock"):
            for app in chosen:
                begun = time.time()
                result: dict[str, Any] = {"time": int(begun), "target": self.target.name, "error": "", "note": ""}
                try:
                    result |= self.restore(app)
                except (BackupError, OSError, ValueError) as error:
                    result["error"] = str(error)
                    failures.append(f"{app.name}: {error}")
                result["seconds"] = round(time.time() - begun, 1)
                Status(self.state).record("drills", app.name, **result)
        return failures

    def restore(self, app: App) -> dict[str, Any]:
        """Restore and check one app; return what was found.

        Raises:
            BackupError: when the restore fails, or what was restored is not sound.
        """
        own = not self.target.repository.startswith("/")  # a folder of this host belongs to another user
        engine = Restic(self.target, self.settings.host, self.config, self.state / "drill", lock=own)
        run = runs.choose(runs.runs_of(engine.snapshots()), app.name, "", f"The target {self.target.name}")
        folder = self.state / "drill" / app.name
        database = f"{app.name}.drill" if app.database else ""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        try:
            needed = sum(engine.size(snapshot) for snapshot in (run.files, run.database) if snapshot)
            free = shutil.disk_usage(folder).free
            if needed + SPARE > free:
                raise BackupError(f"The drill needs {needed >> 20} MiB, but {folder} has {free >> 20} MiB free.")
            engine.restore(run.files, folder)
            about = json.loads(restored(folder, self.state / "stage" / app.name / MANIFEST).read_text())
            saved = engine.files(run.files, APPS / app.name / "data") if app.data else 0
            found = {"backup": run.stamp, "size": needed, **self.check_files(app, folder, about, saved)}
            if app.redis and about.get("redis"):
                found["keys"] = redis.check(restored(folder, Path(app.redis_folder, Path(about["redis"]).name)))
            if database:
                engine.restore(run.database, folder)
                found |= self.check_database(restored(folder, Path(f"/{app.name}.dump")), database, about)
            self.call_command(app, folder, "" if "note" in found else database)
            return found
        finally:
            if database:
                with contextlib.suppress(BackupError):
                    self.server.drop(database)
            make_removable(folder)
            shutil.rmtree(folder, ignore_errors=True)

    def check_files(self, app: App, folder: Path, about: dict[str, Any], saved: int) -> dict[str, Any]:
        """Check the restored files, whose contents restic has verified, and the SQLite databases among them.

        Args:
            app: the app.
            folder: where the backup was restored.
            about: its description.
            saved: number of files that the repository has of the data folder.
        """
        if not app.data:
            return {}
        data = restored(folder, APPS / app.name / "data")
        make_removable(data)
        if (found := files_in(data)) != saved:
            raise BackupError(f"The backup of {app.name} has {saved} files, but {found} were restored.")
        put_copies(Path(f"{folder}{self.state}/stage/{app.name}/sqlite"), data, about["sqlite"])
        if damaged := problems(data):
            raise BackupError(f"Damaged SQLite databases in the backup of {app.name}: {'; '.join(damaged)}")
        files = files_in(data)
        if not files and about.get("has_files"):
            raise BackupError(f"The backup of {app.name} has no files. The app had some when it was made.")
        return {"files": files, "sqlite": len(about["sqlite"])}

    def check_database(self, dump: Path, name: str, about: dict[str, Any]) -> dict[str, Any]:
        """Load a dump into a scratch database, and count its tables and rows.

        The user of the drill is no superuser. If the dump needs an extension that only a superuser may create, it is
        read as a whole, and not loaded.
        """
        if needed := self.server.untrusted(about["extensions"]):
            self.server.read(dump)
            note = f"the database was read, but not loaded: only a superuser may create {', '.join(needed)}"
            return {"note": note, "tables": 0, "rows": 0}
        self.server.drop(name)
        self.server.create(name, self.server.sql("SELECT current_user"), like=name.removesuffix(".drill"))
        self.server.load(dump, name)
        tables, rows = self.server.rows(name)
        if not rows and about.get("has_rows"):
            raise BackupError(
                f"The restored database has {tables} tables but no rows. It had rows when the backup was made."
            )
        return {"tables": tables, "rows": rows}

    def call_command(self, app: App, folder: Path, database: str) -> None:
        """Run the command of the settings, which finds the copy in its environment."""
        if not self.settings.drill_command:
            return
        variables = {
            "APP": app.name,
            "DATA_DIR": f"{folder}{APPS / app.name / 'data'}" if app.data else "",
            "DATABASE_URL": f"postgresql:///{database}" if database else "",
        }
        try:
            done = subprocess.run(
                shlex.split(self.settings.drill_command),
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=COMMAND_TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            late = f"{self.settings.drill_command} did not end within {COMMAND_TIMEOUT} seconds."
            raise BackupError(late) from None
        if done.returncode:
            said = done.stdout.strip()[-600:]
            raise BackupError(f"{self.settings.drill_command} ended with exit status {done.returncode}: {said}")


def files_in(folder: Path) -> int:
    """The number of regular files in a folder, and in the folders below it."""
    return sum(stat.S_ISREG(os.lstat(Path(root, name)).st_mode) for root, _, names in os.walk(folder) for name in names)


def make_removable(folder: Path) -> None:
    """Let this user enter and remove all folders below one: the modes are those of the app."""
    for root, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            os.chmod(root, 0o700)
