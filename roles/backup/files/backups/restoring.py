"""Restore an app, in steps that a playbook runs on several hosts at the same time.

1. `prepare`: restore files and database beside the live ones. Until then, nothing of the app has changed.
2. `stop`: stop the units of the app.
3. `swap`: rename the former data, and give its names to the restored data. Renaming is quick.
4. `start`: start the units again.

`undo` reverts all steps. It deletes only data that was never live; other data is kept under another name. `start` and
`undo` can be repeated after a crash. A copy (`as_name`) is complete after `prepare`.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backups import redis, runs
from backups.archive import NoArchive
from backups.engine import Restic
from backups.moments import Moments, Wanted
from backups.placing import check_space, give_to, put_copies, remove_privileges, restored
from backups.plans import Plan, Plans, checked_stamp, has_lock
from backups.postgres import Server
from backups.saving import MANIFEST
from backups.settings import APPS, CONFIG, STATE, App, BackupError, Settings
from backups.status import locked, shared
from backups.units import active_units, start_units, stop_units

SUPERUSER = "postgres"
READER = "backups"  # the user and the role that read all databases
LOADER = "backups-restore"  # the user and the role that load dumps


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

    @property
    def moments(self) -> Moments:
        return Moments(self.server)

    @property
    def plans(self) -> Plans:
        return Plans(self.state / "restores")

    def engine(self, target: str, host: str) -> Restic:
        return Restic(self.settings.target(target), host or self.settings.host, self.config, self.state)

    def backups(self, target: str = "", host: str = "") -> list[runs.Run]:
        """All backups of this host, or of another one in the same repository."""
        return runs.runs_of(self.engine(target, host).snapshots())

    # --- 1. prepare ---------------------------------------------------------------------------------------------------

    def prepare(
        self,
        name: str,
        at: str = "",
        as_name: str = "",
        replace: bool = False,
        target: str = "",
        host: str = "",
        stamp: str = "",
    ) -> Plan:
        """Restore the files and the database of an app beside the live ones.

        Args:
            name: name of the app.
            at: a time; the newest backup when empty.
            as_name: name of a copy to create instead of replacing the live data.
            replace: whether data of a live app may be replaced.
            target: name of the target; the first one when empty.
            host: host whose backup it is; this one when empty.
            stamp: when the restore began, if the run that has begun it has the lock of the app; now when empty.

        Raises:
            BackupError: when that is not possible. Nothing is left of it.
        """
        app = self.settings.app(name)
        self.check_former_plan(name, stamp)
        engine = self.engine(target, host)
        snapshots = engine.snapshots()
        run = runs.choose(runs.runs_of(snapshots), name, at, f"The target {engine.target.name}")
        archived, own = app.database and self.settings.point_in_time, not (host or target)
        wanted = self.moments.wanted(at, run, snapshots, own) if archived else None
        self.refuse(app, as_name, replace, f"{run.shown}{runs.before(run.time, at)}{wanted or ''}")
        if app.database and not run.database:
            raise BackupError(
                f"The backup of {run.shown} has no database, but the app has one. Choose another one: -e at=TIME"
            )
        parent = APPS / name if app.data else self.state
        begun = checked_stamp(stamp) if stamp else runs.new_stamp()
        plan = Plan(name, begun, run.shown, app.data, app.database, str(parent / f".restore-{begun}"), as_name)
        plan.redis, plan.redis_folder = app.redis, app.redis_folder
        with locked(shared(self.state) / "lock"):
            former = self.check_former_plan(name, stamp)
            if former:
                self.undo(former)
            self.plans.store(plan)
            try:
                self.fetch(plan, run, engine, at, wanted)
            except BaseException:
                self.undo(plan)
                raise
        return plan

    def check_former_plan(self, name: str, stamp: str) -> Plan | None:
        """The plan of a restore that has changed nothing yet, and whose run has ended; None without any.

        Raises:
            BackupError: when that restore has changed something, or its run may still be alive.
        """
        found = self.plans.find(name)
        if found and found.swapped:
            raise found.interrupted()
        if found and not has_lock(self.settings.locks, name, stamp):
            raise BackupError(
                f"Another restore of {name} has begun on this host at {found.stamp}. Nothing was changed.\nWait "
                f"until it ends. If it was interrupted, clean up first: sudo backup restore {name} --step undo"
            )
        return found

    def refuse(self, app: App, as_name: str, replace: bool, backup: str) -> None:
        """Refuse a restore that would overwrite something, or that lacks its user, role or folder.

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
                    f"{as_name} already exists.\nChoose another name, or remove it on the host: "
                    f"sudo backup remove-copy {as_name}"
                )
            return
        if app.data and os.path.ismount(app.folder):
            raise BackupError(
                f"{app.folder} is a mount point, which can't be renamed. Restore into a copy "
                f"(-e as={app.name}-copy), then copy the files."
            )
        if not replace and self.has_content(app):
            raise BackupError(
                f"{app.name} has data on this host. Nothing was changed.\nTo replace it with the backup of "
                f"{backup}: -e yes=replace. The former data is kept. To inspect the backup first: -e as={app.name}-copy"
            )

    def has_content(self, app: App) -> bool:
        """Whether a restore would replace something: files, rows, or a live release that uses them."""
        if (APPS / app.name / "live").is_symlink():
            return True
        if app.data and app.folder.is_dir() and any(app.folder.iterdir()):
            return True
        return app.database and self.server.exists(app.name) and self.server.rows(app.name)[0] > 0

    def fetch(self, plan: Plan, run: runs.Run, engine: Restic, at: str, wanted: Wanted | None) -> None:
        """Restore files and database from the repository, or the database as of a moment from the archive.

        Args:
            plan: the restore.
            run: the backup with the files.
            engine: the repository.
            at: the time that was asked for, if any.
            wanted: the moment of the database; that of the backup when None.
        """
        folder = Path(plan.folder)
        folder.mkdir(mode=0o700)
        files, dumped = (engine.size(snapshot) if snapshot else 0 for snapshot in (run.files, run.database))
        needed = files + dumped
        check_space({folder: needed} | ({self.server.data(): 2 * dumped} if plan.database else {}))
        engine.restore(run.files, folder)
        stage = self.state / "stage" / plan.app
        about = json.loads(restored(folder, stage / MANIFEST).read_text())
        plan.facts = {"size": needed, "files": 0, "tables": 0, "rows": 0}
        plan.note(run.note(at))
        if plan.data:
            data = plan.restored_data
            restored(folder, APPS / plan.app / "data").rename(data)
            remove_privileges(data)
            put_copies(Path(f"{folder}{stage / 'sqlite'}"), data, about["sqlite"])
            owner = account_of(plan.app)
            if owner:
                give_to(data, (about["uid"], about["gid"]), (owner.pw_uid, owner.pw_gid))
            plan.facts["files"] = sum(len(names) for _, _, names in os.walk(data))
        if plan.redis and (owner := account_of(plan.app)):
            redis.put(plan, folder, about.get("redis", ""), owner)
        if plan.database:
            dump = folder / f"{plan.app}.dump"
            if wanted:
                try:
                    found, note = self.moments.dump(plan.app, wanted, engine, plan.stamp, dump)
                    about |= found
                    plan.note(note)
                except NoArchive as error:
                    wanted = None
                    plan.note(f"The database is that of the backup. {error}")
            if not wanted:
                engine.restore(run.database, folder)
            self.load(plan, restored(folder, Path(f"/{plan.app}.dump")), about)
        if plan.as_name:
            self.place_copy(plan)
            self.finish(plan)
        else:
            self.plans.store(plan)

    def place_copy(self, plan: Plan) -> None:
        """Give a copy its name, which nothing else has."""
        folder = APPS / plan.as_name
        if plan.data:
            folder.mkdir(mode=0o755)
        try:
            if plan.data:
                shutil.move(plan.restored_data, folder / "data")
            if plan.redis:
                shutil.move(plan.restored_redis, folder / "redis")
            if plan.database:
                self.server.rename(plan.restored_database, plan.as_name)
        except BaseException:
            if plan.data:  # created here, so nothing else uses it
                shutil.rmtree(folder, ignore_errors=True)
            raise

    def load(self, plan: Plan, dump: Path, about: dict[str, Any]) -> None:
        """Load a dump into a new database. SQL of the dump never runs as a superuser: it runs as a role that is a
        member of nothing but the app's own role."""
        here, there = self.server.major(), int(about["postgresql"])
        if there > here:
            raise BackupError(
                f"The backup is of PostgreSQL {there}, and this host has {here}, which may not read it.\n"
                f"Restore on a host with PostgreSQL {there} or newer, such as a newer Debian."
            )
        if here > there:
            plan.note(f"The backup is of PostgreSQL {there}; it is now in PostgreSQL {here}.")
        name = plan.restored_database
        self.server.create(name, plan.app, like=plan.app)
        schemas = self.server.create_extensions(name, about["extensions"], plan.app)
        with self.server.member(plan.app, LOADER):
            self.loader.load(dump, name, owner=plan.app, schemas=schemas)
        dump.unlink()
        self.server.sql("ANALYZE", name)
        self.server.let_connect(name, READER)
        plan.facts["tables"], plan.facts["rows"] = self.server.rows(name)

    # --- 2. to 4. -----------------------------------------------------------------------------------------------------

    def stop(self, plan: Plan) -> None:
        """Stop the units of the app; remember which of them ran."""
        plan.units = active_units(plan) or plan.units  # none are active when it is repeated
        self.plans.store(plan)
        stop_units(plan)

    def swap(self, plan: Plan) -> None:
        """Rename the former data, and give its names to the restored data. It can be repeated after a crash."""
        for one in plan.folders:
            if not os.path.lexists(one.former):
                self.note(plan, f"{one.kind} aside")
                one.live.rename(one.former)
            if one.restored.exists() or not os.path.lexists(one.live):
                self.note(plan, one.kind)
                one.restored.rename(one.live)
        if plan.database:
            restored = self.server.exists(plan.restored_database)
            if restored and self.server.exists(plan.app) and not self.server.exists(plan.former_database):
                self.note(plan, "database aside")
                self.server.rename(plan.app, plan.former_database)
            if restored or not self.server.exists(plan.app):
                self.note(plan, "database")
                self.server.rename(plan.restored_database, plan.app)
            self.server.allow_connections(plan.app)

    def note(self, plan: Plan, step: str) -> None:
        """Store a step before it is done, so that a crash can't hide it."""
        if step not in plan.swapped:
            plan.swapped.append(step)
            self.plans.store(plan)

    def start(self, plan: Plan) -> None:
        """Start the units that ran before; the restore is complete.

        Raises:
            BackupError: when the restored data is not live, or a unit does not start.
        """
        if not plan.swapped or "undo" in plan.swapped:
            raise BackupError(f"{plan.app} still uses its former data. Run: sudo backup restore {plan.app} --step undo")
        if not plan.complete:
            self.swap(plan)  # completes it after a crash
            plan.complete = True
            self.plans.store(plan)
        start_units(plan)
        self.finish(plan)

    def finish(self, plan: Plan) -> None:
        """Remove the plan, then delete the restored files that are not live."""
        self.moments.clean(plan.stamp)  # of a run that was killed
        self.plans.remove(plan)
        shutil.rmtree(plan.folder, ignore_errors=True)
        if plan.redis:
            shutil.rmtree(plan.restored_redis, ignore_errors=True)

    def undo(self, plan: Plan) -> None:
        """Revert all steps of a restore. Data that was live is kept under another name."""
        if plan.swapped:
            if plan.complete:  # since then, other units may have been started
                plan.units = active_units(plan) or plan.units
                self.plans.store(plan)
            self.note(plan, "undo")
            stop_units(plan)
            self.put_back(plan)
        with contextlib.suppress(BackupError):
            start_units(plan)
        self.finish(plan)
        if plan.database:
            self.server.drop(plan.restored_database)

    def put_back(self, plan: Plan) -> None:
        """Give the former data its names again. It checks what exists, so it can be repeated after a crash."""
        aside = []
        if plan.database:
            former, restored = (self.server.exists(x) for x in (plan.former_database, plan.restored_database))
            # Without a former database, there may have been none, or it has its name again.
            alone = "database" in plan.swapped and "database aside" not in plan.swapped and not restored
            if (former or alone) and self.server.exists(plan.app):
                self.server.rename(plan.app, plan.undone_database)
            if former:
                self.server.rename(plan.former_database, plan.app)
            if self.server.exists(plan.app):
                self.server.allow_connections(plan.app)
            aside += [f"database {plan.undone_database}"] if self.server.exists(plan.undone_database) else []
        for one in plan.folders:
            if os.path.lexists(one.former):
                if os.path.lexists(one.live):
                    one.live.rename(one.undone)
                one.former.rename(one.live)
            aside += [str(one.undone)] if os.path.lexists(one.undone) else []
        plan.facts["undone"] = aside

    # --- former data --------------------------------------------------------------------------------------------------

    def former(self, name: str) -> list[str]:
        """The folders and databases with former data of an app, which earlier restores have kept."""
        app = self.settings.app(name)
        kinds = ("before", "undone")
        folders = [str(path) for kind in kinds for path in sorted((APPS / name).glob(f"data.{kind}-*")) if app.data]
        redis_folder = Path(app.redis_folder)
        found = [path for kind in kinds for path in sorted(redis_folder.parent.glob(f"{redis_folder.name}.{kind}-*"))]
        folders += [str(path) for path in found if app.redis]
        databases = [found for kind in kinds if app.database for found in self.server.named(f"{name}.{kind}-%")]
        return folders + [f"database {database}" for database in databases]

    def delete_former(self, name: str) -> list[str]:
        """Delete the former data of an app, and return its folders and databases.

        Raises:
            BackupError: when a restore has not ended, as its undo needs the former data.
        """
        plan = self.plans.find(name)
        if plan and plan.swapped:
            raise plan.interrupted()
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
