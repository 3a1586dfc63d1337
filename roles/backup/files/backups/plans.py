"""The plan of a restore that has begun, as stored between its steps: what it has prepared, and what it has changed."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backups import settings
from backups.settings import BackupError


@dataclass(frozen=True)
class Folder:
    """A folder of an app that a restore replaces.

    Args:
        kind: its name among the changes of a plan.
        live: the folder.
        restored: its restored content.
        stamp: when the restore began.
    """

    kind: str
    live: Path
    restored: Path
    stamp: str

    @property
    def former(self) -> Path:
        """Where the replaced content is kept."""
        return self.live.with_name(f"{self.live.name}.before-{self.stamp}")

    @property
    def undone(self) -> Path:
        """Where an undo keeps the content that a restore has made live."""
        return self.live.with_name(f"{self.live.name}.undone-{self.stamp}")


@dataclass
class Plan:
    """A restore that has begun.

    Args:
        app: name of the app.
        stamp: when the restore began.
        backup: when the backup was made.
        data: whether the app has a data folder on this host.
        database: whether it has a database on this host.
        folder: the restored files, beside the live ones.
        redis: persistence of its instance of Redis, aof or rdb; empty if its data is not restored.
        redis_folder: the folder of that instance.
        as_name: name of the copy, if it is one.
        units: units that ran before the restore.
        swapped: the changes of names that have begun. Each one is stored before it is done.
        complete: whether the restored data is live, so that the app may have changed it since.
        facts: what was restored.
    """

    app: str
    stamp: str
    backup: str
    data: bool
    database: bool
    folder: str
    as_name: str = ""
    units: list[str] = field(default_factory=list)
    swapped: list[str] = field(default_factory=list)
    complete: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    redis: str = ""
    redis_folder: str = ""

    @property
    def restored_data(self) -> Path:
        return Path(self.folder) / "data"

    @property
    def restored_redis(self) -> Path:
        """Beside the live folder, to which it is renamed; that of a copy is beside its data."""
        return Path(self.folder) / "redis" if self.as_name else Path(f"{self.redis_folder}.restore-{self.stamp}")

    @property
    def data_folder(self) -> Folder:
        return Folder("data", settings.APPS / self.app / "data", self.restored_data, self.stamp)

    @property
    def folders(self) -> list[Folder]:
        """The folders that the restore replaces."""
        redis = Folder("redis", Path(self.redis_folder), self.restored_redis, self.stamp)
        return [self.data_folder] * self.data + [redis] * bool(self.redis)

    @property
    def former_data(self) -> Path:
        return self.data_folder.former

    @property
    def undone_data(self) -> Path:
        return self.data_folder.undone

    @property
    def restored_database(self) -> str:
        return f"{self.app}.restore-{self.stamp}"

    @property
    def former_database(self) -> str:
        return f"{self.app}.before-{self.stamp}"

    @property
    def undone_database(self) -> str:
        return f"{self.app}.undone-{self.stamp}"

    def note(self, text: str) -> None:
        """Add a sentence to the report, if there is one."""
        if text:
            self.facts["note"] = f"{self.facts.get('note', '')} {text}".strip()

    def interrupted(self) -> BackupError:
        """The error for a restore that has begun to change the live data, and has not ended."""
        places = [str(one.former) for one in self.folders]
        places += [f"database {self.former_database}"] if self.database else []
        when = "after it had replaced the data" if self.complete else "while it replaced the data"
        return BackupError(
            f"The restore of {self.app} that began at {self.stamp} was interrupted {when}. Nothing was changed now.\n"
            f"The former data is in {', '.join(places)}.\n"
            f"To finish that restore and start the app, run on the host: sudo backup restore {self.app} --step start\n"
            f"To return to the former data, run: sudo backup restore {self.app} --step undo"
        )


@dataclass(frozen=True)
class Plans:
    """The stored plans, one of each app at most.

    Args:
        folder: their folder.
    """

    folder: Path

    def path(self, app: str) -> Path:
        return self.folder / f"{app}.json"

    def store(self, plan: Plan) -> None:
        """Store a plan so that it survives a crash of the host."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        beside = self.path(plan.app).with_suffix(".new")
        with beside.open("w") as file:
            json.dump(asdict(plan), file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path(plan.app))

    def remove(self, plan: Plan) -> None:
        self.path(plan.app).unlink(missing_ok=True)

    def find(self, app: str) -> Plan | None:
        """The plan of an app; None without one."""
        try:
            return Plan(**json.loads(self.path(app).read_text()))
        except FileNotFoundError:
            return None

    def get(self, app: str, stamp: str = "") -> Plan:
        """The plan of an app.

        Args:
            app: name of the app.
            stamp: when the restore began; any when empty.

        Raises:
            BackupError: when there is none, or only the one of another restore.
        """
        found = self.find(app)
        if found is None:
            raise BackupError(f"No restore of {app} has been prepared on this host.")
        if stamp not in ("", found.stamp):
            raise BackupError(
                f"Another restore of {app} has begun on this host at {found.stamp}, so the restore of {stamp} "
                "can't continue. Nothing was changed."
            )
        return found


def checked_stamp(stamp: str) -> str:
    """A stamp from the command line, which becomes a part of names.

    Raises:
        BackupError: when it is none.
    """
    if not re.fullmatch(r"\d{8}T\d{6}Z", stamp):
        raise BackupError(f"'{stamp}' is not a time such as 20260102T030405Z.")
    return stamp


def has_lock(locks: str, app: str, stamp: str) -> bool:
    """Whether the run that has this stamp has the lock of the app, in the folder of all locks."""
    try:
        return bool(locks and stamp) and Path(locks, app, "token").read_text().strip() == f"restore-{stamp}"
    except OSError:
        return False
