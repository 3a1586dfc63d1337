"""The settings of the program, which Ansible writes, and the errors that it reports."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# systemd shows the files of /etc/backup, which only root can read, to the units in a folder of their own.
ETC = Path("/etc/backup")
CONFIG = Path(os.environ.get("CREDENTIALS_DIRECTORY") or ETC)
STATE = Path("/var/lib/backup")
APPS = Path("/srv")


class BackupError(Exception):
    """A backup, a restore or a check is not possible; the first line is the cause, the next ones say what to do."""


@dataclass(frozen=True)
class App:
    """An app of this host.

    Args:
        name: its name, which is also that of its database and of the user who owns both.
        data: whether this host has its data folder.
        database: whether this host has its PostgreSQL database.
        redis: persistence of its instance of Redis or Valkey on this host, aof or rdb; empty without data to save.
        redis_folder: the folder of that instance.
        redis_socket: its socket.
    """

    name: str
    data: bool = True
    database: bool = False
    redis: str = ""
    redis_folder: str = ""
    redis_socket: str = ""

    @property
    def folder(self) -> Path:
        return APPS / self.name / "data"


@dataclass(frozen=True)
class Target:
    """A repository of restic.

    Args:
        name: its name in errors and in the status.
        repository: where it is, in restic's notation. `rclone:` stands for rclone on another host, reached by SSH.
        ssh: user and host, for SFTP and rclone.
        port: port of sshd on that host.
        pinned: whether the key of that host is in known_hosts; otherwise, the first key is accepted and stored.
        append_only: whether the target refuses to delete, so that only a run with special access can.
        environment: variables for restic, such as the keys of S3.
    """

    name: str
    repository: str
    ssh: str = ""
    port: int = 22
    pinned: bool = False
    append_only: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def has_log(self) -> bool:
        """Whether WAL can be sent to it within seconds: to a host of the group backups, or a folder of this host."""
        return self.repository.startswith(("rclone:", "/"))


@dataclass(frozen=True)
class Settings:
    """The apps to back up, the targets, and how long backups are kept.

    Args:
        host: name of this host in the inventory; restic records it.
        apps: the apps of this host.
        targets: the repositories.
        exclude: patterns of files that are not saved.
        keep: number of backups to keep: `daily`, `weekly`, `monthly`.
        limit_upload: KiB per second; 0 for no limit.
        drill_command: command that checks a restored copy; only general checks when empty.
        max_age: hours after which the status reports a `backup`, a `check` or a `drill` as too old.
        point_in_time: whether the WAL of this host's cluster is archived, so that any moment can be restored.
        locks: folder with the locks of the apps, without which nothing changes an app: the file token in a folder APP.
    """

    host: str
    apps: tuple[App, ...]
    targets: tuple[Target, ...]
    exclude: tuple[str, ...] = ()
    keep: dict[str, int] = field(default_factory=lambda: {"daily": 7, "weekly": 5, "monthly": 12})
    limit_upload: int = 0
    drill_command: str = ""
    max_age: dict[str, int] = field(default_factory=lambda: {"backup": 50, "check": 340, "drill": 340})
    locks: str = ""
    point_in_time: bool = False

    def app(self, name: str) -> App:
        """The app of that name.

        Raises:
            BackupError: when this host does not save it.
        """
        for app in self.apps:
            if app.name == name:
                return app
        known = ", ".join(app.name for app in self.apps) or "none"
        raise BackupError(f"This host saves no app {name}. It saves: {known}.")

    def target(self, name: str = "") -> Target:
        """The target of that name, or the first one.

        Raises:
            BackupError: when there is none.
        """
        for target in self.targets:
            if name in ("", target.name):
                return target
        known = ", ".join(target.name for target in self.targets) or "none"
        raise BackupError(f"There is no target {name}. Known are: {known}. Set backup_targets in the inventory.")


def load(folder: Path | None = None) -> Settings:
    """Read settings.json.

    Raises:
        BackupError: when there is none.
    """
    path = (folder or CONFIG) / "settings.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise BackupError(f"{path} is missing. Set backup_targets and run playbooks/site.yml on this host.") from None
    apps = tuple(App(**app) for app in found.pop("apps"))
    targets = tuple(Target(**target) for target in found.pop("targets"))
    return Settings(apps=apps, targets=targets, exclude=tuple(found.pop("exclude", ())), **found)
