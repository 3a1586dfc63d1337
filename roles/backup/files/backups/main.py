"""The command line of the program.

    backup run all|NAME            back up all apps, or one, to every target
    backup list [NAME]             list the backups
    backup prune [TARGET]          delete the backups that backup_keep no longer keeps
    backup check [TARGET]          check the repository
    backup drill all|NAME          restore the newest backups to scratch copies, and check them
    backup restore NAME            restore an app: --at TIME, --as NAME-copy, --yes replace
    backup former NAME             list the former data that restores have kept; --delete deletes it
    backup remove-copy NAME        remove a copy that a restore has created
    backup forget-repository TARGET  start a new repository with the next backup, if that of the target is gone
    backup base                    make a base backup of the cluster, if that is due
    backup archive TARGET          send new WAL to a target, without end
    backup restic TARGET …         run restic itself on the repository of a target

The program reads /etc/backup/settings.json, which Ansible writes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from backups import redis
from backups.archive import DAMAGED, Archive, DamagedPages
from backups.drill import Drill
from backups.engine import Restic
from backups.postgres import Server
from backups.restoring import Restorer
from backups.runs import choose
from backups.saving import Saver
from backups.settings import APPS, ETC, App, BackupError, Settings, load
from backups.shipping import Shipper
from backups.status import Status

STEPS = ("prepare", "stop", "swap", "start", "undo")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="backup", description=__doc__)
    top.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = top.add_subparsers(dest="command", required=True)
    for name in ("run", "drill"):
        commands.add_parser(name).add_argument("app", help="name of an app, or all")
    for name in ("prune", "check"):
        one = commands.add_parser(name)
        one.add_argument("target", nargs="?", default="")
        one.add_argument("--config", default="", help=argparse.SUPPRESS)
    listed = commands.add_parser("list")
    listed.add_argument("app", nargs="?", default="")
    restore = commands.add_parser("restore")
    restore.add_argument("app")
    restore.add_argument(
        "--at", default="", help="use the newest backup from this time or earlier, such as '2026-01-02 03:04'"
    )
    restore.add_argument("--as", dest="as_name", default="", help="restore into a copy with this name")
    restore.add_argument("--yes", default="", choices=["", "replace"], help="replace the data of a live app")
    restore.add_argument("--stamp", default="", help=argparse.SUPPRESS)
    restore.add_argument("--step", default="", choices=["", *STEPS], help=argparse.SUPPRESS)
    for one in (listed, restore):
        one.add_argument("--target", default="", help="name of the target; default: the first one")
        one.add_argument("--from", dest="host", default="", help="host whose backup it is")
        one.add_argument("--config", default="", help="folder with the settings and keys for another host's backups")
        one.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    former = commands.add_parser("former")
    former.add_argument("app")
    former.add_argument("--delete", action="store_true")
    former.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    commands.add_parser("remove-copy").add_argument("name")
    commands.add_parser("forget-repository").add_argument("target")
    commands.add_parser("base")
    commands.add_parser("dump-redis").add_argument("app")  # for the unit, as root
    commands.add_parser("record")  # for Ansible, which has changed the settings
    commands.add_parser("archive").add_argument("target")
    engine = commands.add_parser("restic", prefix_chars="\0")
    engine.add_argument("target")
    engine.add_argument("words", nargs=argparse.REMAINDER)
    return top


def restore(given: argparse.Namespace, restorer: Restorer) -> int:
    """Take one step of a restore, or all."""
    steps = [given.step] if given.step else ["prepare"] if given.as_name else ["prepare", "stop", "swap", "start"]
    for step in steps:
        if step == "prepare":
            plan = restorer.prepare(
                given.app, given.at, given.as_name, given.yes == "replace", given.target, given.host, given.stamp
            )
            continue
        if not given.step:
            given.stamp = plan.stamp
        plan = restorer.plans.get(given.app, given.stamp)
        try:
            getattr(restorer, step)(plan)
        except BaseException:
            # A restore that is complete is only undone by the run that has done it all, or by the one who asks for it.
            if step != "undo" and not (given.step and plan.complete):
                restorer.undo(restorer.plans.get(given.app, plan.stamp))
            raise
    if given.json:
        print(json.dumps(asdict(plan)))
    elif given.step == "undo":
        aside = ", ".join(plan.facts.get("undone", []))
        print(f"The restore of {given.app} was undone." + (f" The restored data is kept in {aside}." if aside else ""))
    else:
        print(report(plan.backup, given, plan.facts))
    return 0


def report(backup: str, given: argparse.Namespace, facts: dict[str, object]) -> str:
    where = f"the copy {given.as_name}" if given.as_name else given.app
    found = ", ".join(f"{value} {key}" for key, value in facts.items() if key != "note")
    return f"Restored {where} from the backup of {backup}: {found}\n{facts.get('note', '')}".strip()


def main(argv: list[str] | None = None) -> int:
    given = parser().parse_args(argv)
    try:
        return base() if given.command == "base" else call(given, load(ETC if given.command == "dump-redis" else None))
    except BackupError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"The system has refused a step of 'backup {given.command}': {error}", file=sys.stderr)
        return 1


def call(given: argparse.Namespace, settings: Settings) -> int:
    """Run a command of the program, and return its exit status."""
    names = [given.app] if getattr(given, "app", "all") not in ("all", "") else []
    restorer, saver = Restorer(settings), Saver(settings)
    if getattr(given, "config", ""):
        folder = Path(given.config)
        settings = replace(settings, targets=load(folder).targets)
        restorer, saver = Restorer(settings, config=folder), Saver(settings, config=folder)
    if given.command in ("run", "drill") and is_root():
        app = settings.app(given.app).name if names else "all"
        start_unit(f"{'backup' if given.command == 'run' else 'backup-drill'}@{app}")
        print("Done.")
        return 0
    if given.command == "archive":
        if given.target in [target.name for target in settings.targets]:  # otherwise, it is no longer one
            Shipper(saver.engine(settings.target(given.target)), saver.state).run()
        return 0
    if given.command == "dump-redis":
        return dump_redis([settings.app(name) for name in names] or settings.apps, Status(saver.state))
    if given.command in ("run", "drill", "check", "record"):
        record(settings, Status(saver.state))
    if given.command == "record":
        return 0
    if given.command in ("run", "drill"):
        failures = (saver if given.command == "run" else Drill(settings)).run(names)
        print("\n\n".join(failures) or "Done.", file=sys.stderr if failures else sys.stdout)
        return 1 if failures else 0
    if given.command == "list":
        found = restorer.backups(given.target, given.host)
        if names and not any(run.app == given.app for run in found):
            choose(found, given.app, "", "The target")  # explains it
        shown = [run for run in found if not names or run.app == given.app]
        lines = "\n".join(f"{run.shown}  {run.app}{'  incomplete' * run.incomplete}" for run in shown)
        print(json.dumps([asdict(run) for run in shown]) if given.json else lines)
        return 0
    if given.command in ("prune", "check"):
        targets = [settings.target(given.target)] if given.target else settings.targets
        for target in targets:
            if given.command == "prune" and target.append_only and not given.target:
                continue
            if given.command == "prune":
                print(f"{target.name}: {saver.prune(target)} snapshots were deleted")
            else:
                saver.check(target)
                print(f"{target.name}: no damage was found")
        return 0
    if given.command == "restore":
        return restore(given, restorer)
    if given.command == "former":
        found_former = restorer.delete_former(given.app) if given.delete else restorer.former(given.app)
        print(json.dumps(found_former) if given.json else "\n".join(found_former) or "No former data.")
        return 0
    if given.command == "remove-copy":
        return remove_copy(given.name, restorer)
    if given.command == "forget-repository":
        saver.forget_repository(settings.target(given.target))
        print(f"If {given.target} has no repository, the next backup starts a new one.")
        return 0
    engine = Restic(settings.target(given.target), settings.host)
    os.execvpe("restic", engine.argv(*given.words), engine.environment())  # noqa: S606


def base() -> int:
    """Make a base backup, as the user of the cluster, who can't read the settings."""
    if is_root():
        start_unit("backup-base")
        if error := Status().read().get("archive", {}).get("base_error"):  # the unit itself has not failed
            raise BackupError(error)
        print("Done.")
        return 0
    archive, status = Archive(), Status()
    begun = int(time.time())
    try:
        made = archive.back_up(Server().sql("SHOW data_directory"))
    except BackupError as error:
        status.record("archive", base_error=str(error))
        if not isinstance(error, DamagedPages):
            raise
        status.record("archive", bases=[asdict(one) for one in archive.bases()])
        print(error, file=sys.stderr)  # the status reports it; WAL is sent nevertheless
        return 0
    if not made and archive.all_bases()[-1].error:
        known = status.read().get("archive", {}).get("base_error") or DAMAGED
        status.record("archive", base_error=known)
        print(f"The last one is not a day old. {known}", file=sys.stderr)
        return 0
    status.record("archive", base_error="", base_time=begun, bases=[asdict(one) for one in archive.bases()])
    print("Done." if made else "The last one is not a day old.")
    return 0


def dump_redis(apps: Iterable[App], status: Status) -> int:
    """Let the instances of Redis of some apps write their dumps. The run of the unit reports those that have failed."""
    for app in apps:
        if app.redis:
            error = ""
            try:
                redis.dump(app, app.name if is_root() else "")
            except (BackupError, KeyError, OSError, ValueError) as problem:
                error = str(problem)
            status.record("redis", app.name, error=error, run=os.environ.get("INVOCATION_ID", ""))
    return 0


def is_root() -> bool:
    return os.geteuid() == 0


def start_unit(name: str) -> None:
    """Let the user of a unit do it: root writes no file in the folders of that user.

    Raises:
        BackupError: when it fails.
    """
    unit = f"{name}.service"
    if subprocess.run(["systemctl", "start", unit]).returncode:
        raise BackupError(f"{unit} has failed.\nSee: journalctl --unit={unit}")


def record(settings: Settings, status: Status) -> None:
    """Store the settings that the status needs, as only root can read the others, and the time of the first storing."""
    apps, targets = ([{"name": one.name} for one in found] for found in (settings.apps, settings.targets))
    since = status.read().get("settings", {}).get("since", int(time.time()))
    values = {"max_age": settings.max_age, "since": since, "point_in_time": settings.point_in_time}
    values["logs"] = [target.name for target in settings.targets if target.has_log]
    status.record("settings", apps=apps, targets=targets, **values)


def remove_copy(name: str, restorer: Restorer) -> int:
    """Remove a copy of an app: its folder, which has nothing but data, and its database."""
    folder = APPS / name
    if name in [app.name for app in restorer.settings.apps] or (
        folder.is_dir() and not {"data", "redis"}.issuperset(os.listdir(folder))
    ):
        raise BackupError(f"{name} is not a copy. Nothing was removed.")
    owners = [app.name for app in restorer.settings.apps if app.database]
    if owners and restorer.server.owner(name) in owners and "." not in name:
        restorer.server.drop(name)
    if folder.is_dir():
        shutil.rmtree(folder)
    print(f"{name} was removed.")
    return 0
