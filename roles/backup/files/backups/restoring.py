"""Restore an app, in steps that a playbook takes on several hosts side by side.

1. `prepare`: restore files and database beside the live ones. Until then, nothing of the app has changed.
2. `stop`: stop the units of the app.
3. `swap`: put the former data aside, and the restored data in its place. These are changes of names, so they are quick.
4. `start`: start the units again.

`undo` takes back whatever was done. A copy (`as_name`) is complete after `prepare`.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backups import runs
from backups.engine import Restic
from backups.placing import give_to, put_copies
from backups.postgres import Server
from backups.saving import MANIFEST
from backups.settings import APPS, CONFIG, STATE, App, BackupError, Settings
from backups.status import locked

SUPERUSER = "postgres"
READER = "backups"  # the user and the role that read all databases
LOADER = "backups-restore"  # the user and the role that load dumps
SPARE = 64 * 2**20  # bytes that have to stay free


@dataclass
class Plan:
    """A restore that has begun, as stored between its steps."""

    app: str
    stamp: str  # when the restore began
    backup: str  # when the backup was made
    data: bool
    database: bool
    folder: str
    as_name: str = ""
    units: list[str] = field(default_factory=list)
    swapped: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def restored_database(self) -> str:
        return self.as_name or f"{self.app}.restore-{self.stamp}"

    @property
    def former_database(self) -> str:
        return f"{self.app}.before-{self.stamp}"

    @property
    def former_data(self) -> Path:
        return APPS / self.app / f"data.before-{self.stamp}"


@dataclass
class Restorer:
    """Restores an app of this host.

    Args:
        settings: the apps and targets of this host.
        state: folder for the plans.
        config: folder with the keys.
        server: the PostgreSQL cluster, as a superuser.
        loader: the same, as a user without rights of its own.
    """

    settings: Settings
    state: Path = STATE
    config: Path = CONFIG
    server: Server = field(default_factory=lambda: Server(SUPERUSER))
    loader: Server = field(default_factory=lambda: Server(LOADER))

    def plan_file(self, app: str) -> Path:
        return self.state / "restores" / f"{app}.json"

    def store(self, plan: Plan) -> None:
        path = self.plan_file(plan.app)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(asdict(plan)))
        beside.replace(path)

    def plan(self, app: str) -> Plan:
        """The plan of a restore that has begun.

        Raises:
            BackupError: when none has.
        """
        try:
            return Plan(**json.loads(self.plan_file(app).read_text()))
        except FileNotFoundError:
            raise BackupError(f"No restore of {app} has been prepared on this host.") from None

    def engine(self, target: str, host: str) -> Restic:
        return Restic(self.settings.target(target), host or self.settings.host, self.config, self.state)

    def backups(self, target: str = "", host: str = "") -> list[runs.Run]:
        """All backups of this host, or of another one in the same repository."""
        return runs.runs_of(self.engine(target, host).snapshots())

    # --- 1. prepare ---------------------------------------------------------------------------------------------------

    def prepare(
        self, name: str, at: str = "", as_name: str = "", replace: bool = False, target: str = "", host: str = ""
    ) -> Plan:
        """Restore the files and the database of an app beside the live ones.

        Args:
            name: name of the app.
            at: a time; the newest backup when empty.
            as_name: name of a copy to create instead of replacing the live data.
            replace: whether data of a live app may be replaced.
            target: name of the target; the first one when empty.
            host: host whose backup it is; this one when empty.

        Raises:
            BackupError: when that is not possible. Nothing is left of it.
        """
        app = self.settings.app(name)
        self.refuse(app, as_name, replace)
        if self.plan_file(name).exists():  # of a restore that was interrupted
            self.undo(self.plan(name))
        engine = self.engine(target, host)
        run = runs.choose(runs.runs_of(engine.snapshots()), name, at, f"The target {engine.target.name}")
        if app.database and not run.database:
            raise BackupError(
                f"The backup of {run.shown} has no database, but the app has one. Choose another one with at."
            )
        stamp = runs.new_stamp()
        parent = APPS / name if app.data else self.state
        plan = Plan(name, stamp, run.shown, app.data, app.database, str(parent / f".restore-{stamp}"), as_name)
        with locked(self.state / "lock"):
            self.store(plan)
            try:
                self.fetch(plan, run, engine)
            except BaseException:
                self.undo(plan)
                raise
        return plan

    def refuse(self, app: App, as_name: str, replace: bool) -> None:
        """Refuse what would overwrite something, or has no place.

        Raises:
            BackupError: with the option to add, or the step to take first.
        """
        if app.data and account_of(app.name) is None:
            raise BackupError(f"This host has no user {app.name}. Run playbooks/site.yml first, then restore.")
        role = app.database and self.server.sql("SELECT 1 FROM pg_roles WHERE rolname = :'name'", name=app.name)
        if app.database and not role:
            raise BackupError(f"PostgreSQL has no role {app.name}. Run playbooks/site.yml first, then restore.")
        if as_name:
            if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", as_name) or as_name == app.name:
                raise BackupError(f"'{as_name}' is not a name for a copy. Use, for example: -e as={app.name}-copy")
            if (APPS / as_name).exists() or (app.database and self.server.exists(as_name)):
                raise BackupError(
                    f"{as_name} is there already.\nChoose another name, or remove it on the host: "
                    f"sudo backup remove-copy {as_name}"
                )
            return
        if app.data and os.path.ismount(app.folder):
            raise BackupError(
                f"{app.folder} is a mount point, which cannot be renamed. Restore with as, then copy the files."
            )
        if not replace and self.has_content(app):
            raise BackupError(
                f"{app.name} has data on this host. Nothing was changed.\nTo put it aside and restore the backup in "
                f"its place: -e yes=replace. To look at the backup first: -e as={app.name}-copy"
            )

    def has_content(self, app: App) -> bool:
        """Whether there is something to lose: files, tables, or a live release that uses them."""
        if (APPS / app.name / "live").is_symlink():
            return True
        if app.data and app.folder.is_dir() and any(app.folder.iterdir()):
            return True
        return app.database and self.server.exists(app.name) and self.server.rows(app.name)[0] > 0

    def fetch(self, plan: Plan, run: runs.Run, engine: Restic) -> None:
        """Restore files and database from the repository."""
        folder = Path(plan.folder)
        folder.mkdir(mode=0o700)
        needed = sum(engine.size(snapshot) for snapshot in (run.files, run.database) if snapshot)
        free = shutil.disk_usage(folder).free
        if needed + SPARE > free:
            raise BackupError(
                f"The restore needs {needed >> 20} MiB, but {folder.parent} has {free >> 20} MiB free. "
                "Nothing was changed."
            )
        engine.restore(run.files, folder)
        stage = Path(f"{folder}{self.state}/stage/{plan.app}")
        about = json.loads((stage / MANIFEST).read_text())
        plan.facts = {"size": needed, "files": 0, "tables": 0, "rows": 0}
        if plan.data:
            data = folder / "data"
            Path(f"{folder}{APPS / plan.app / 'data'}").rename(data)
            put_copies(stage / "sqlite", data, about["sqlite"])
            owner = account_of(plan.app)
            if owner:
                give_to(data, (about["uid"], about["gid"]), (owner.pw_uid, owner.pw_gid))
            plan.facts["files"] = sum(len(names) for _, _, names in os.walk(data))
        if plan.database:
            engine.restore(run.database, folder)
            self.load(plan, folder / f"{plan.app}.dump", about)
        if plan.as_name and plan.data:
            (APPS / plan.as_name).mkdir(mode=0o755)
            shutil.move(folder / "data", APPS / plan.as_name / "data")
        if plan.as_name:
            self.finish(plan)
        else:
            self.store(plan)

    def load(self, plan: Plan, dump: Path, about: dict[str, Any]) -> None:
        """Load a dump into a new database. What is in the dump never runs as a superuser: it runs as a role that is a
        member of nothing but the app's own role."""
        here, there = self.server.major(), int(about["postgresql"])
        if there > here:
            raise BackupError(
                f"The backup is of PostgreSQL {there}, and this host has {here}, which may not read it.\n"
                f"Restore on a host with PostgreSQL {there} or newer, such as a newer Debian."
            )
        if here > there:
            plan.facts["note"] = f"The backup is of PostgreSQL {there}; it is now in PostgreSQL {here}."
        name = plan.restored_database
        self.server.create(name, plan.app, like=plan.app)
        for extension in about["extensions"]:
            self.server.sql(
                'CREATE EXTENSION IF NOT EXISTS :"extension" SCHEMA public CASCADE', name, extension=extension
            )
        with self.server.member(plan.app, LOADER):
            self.loader.load(dump, name, owner=plan.app)
        dump.unlink()
        self.server.sql("ANALYZE", name)
        self.server.let_connect(name, READER)
        plan.facts["tables"], plan.facts["rows"] = self.server.rows(name)

    # --- 2. to 4. -----------------------------------------------------------------------------------------------------

    def stop(self, plan: Plan) -> None:
        """Stop the units of the app; remember which of them ran."""
        patterns = [f"{plan.app}@*", f"{plan.app}.*@*"]
        listed = systemctl("list-units", "--plain", "--no-legend", "--state=active", *patterns).splitlines()
        plan.units = [line.split()[0] for line in listed]
        self.store(plan)
        # Sockets and timers first, as they start services.
        for kind in ("socket", "timer", "service"):
            systemctl("stop", *(f"{pattern}.{kind}" for pattern in patterns))

    def swap(self, plan: Plan) -> None:
        """Put the former data aside, and the restored data in its place."""
        if plan.data:
            live = APPS / plan.app / "data"
            live.rename(plan.former_data)
            self.note(plan, "data aside")
            (Path(plan.folder) / "data").rename(live)
            self.note(plan, "data")
        if plan.database:
            if self.server.exists(plan.app):
                self.server.rename(plan.app, plan.former_database)
                self.note(plan, "database aside")
            self.server.rename(plan.restored_database, plan.app)
            self.note(plan, "database")

    def note(self, plan: Plan, step: str) -> None:
        plan.swapped.append(step)
        self.store(plan)

    def start(self, plan: Plan) -> None:
        """Start the units that ran before; the restore is complete.

        Raises:
            BackupError: when one does not start.
        """
        self.start_units(plan)
        self.finish(plan)

    def start_units(self, plan: Plan) -> None:
        for kind in ("socket", "service", "timer"):
            units = [unit for unit in plan.units if unit.endswith(f".{kind}")]
            if units and subprocess.run(["systemctl", "start", *units], capture_output=True).returncode:
                raise BackupError(f"{', '.join(units)}: not all of them start.\nSee: journalctl -u '{plan.app}*'")

    def finish(self, plan: Plan) -> None:
        shutil.rmtree(plan.folder, ignore_errors=True)
        self.plan_file(plan.app).unlink(missing_ok=True)

    def undo(self, plan: Plan) -> None:
        """Take back what a restore has done, so that the app is as before."""
        live = APPS / plan.app / "data"
        if "database" in plan.swapped:
            self.server.rename(plan.app, plan.restored_database)
        if "database aside" in plan.swapped:
            self.server.rename(plan.former_database, plan.app)
        if "data" in plan.swapped:
            live.rename(Path(plan.folder) / "data")
        if "data aside" in plan.swapped:
            plan.former_data.rename(live)
        if plan.database:
            self.server.drop(plan.restored_database)
        if plan.as_name and plan.data:
            shutil.rmtree(APPS / plan.as_name, ignore_errors=True)
        with contextlib.suppress(BackupError):
            self.start_units(plan)
        self.finish(plan)

    # --- what is kept aside -------------------------------------------------------------------------------------------

    def former(self, name: str) -> list[str]:
        """What earlier restores of an app have put aside."""
        app = self.settings.app(name)
        folders = [str(path) for path in sorted((APPS / name).glob("data.before-*"))] if app.data else []
        databases = self.server.named(f"{name}.before-%") if app.database else []
        return folders + [f"database {database}" for database in databases]

    def delete_former(self, name: str) -> list[str]:
        """Delete what earlier restores of an app have put aside, and return it."""
        found = self.former(name)
        for one in found:
            if one.startswith("database "):
                self.server.drop(one.removeprefix("database "))
            else:
                shutil.rmtree(one)
        return found


def account_of(name: str) -> pwd.struct_passwd | None:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(name)
    return None


def systemctl(*argv: str) -> str:
    return subprocess.run(["systemctl", *argv], capture_output=True, text=True).stdout.strip()
