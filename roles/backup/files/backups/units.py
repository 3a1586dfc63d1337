"""The systemd units of an app, which a restore stops and starts."""

from __future__ import annotations

import subprocess

from backups.plans import Plan
from backups.settings import BackupError


def patterns(app: str) -> list[str]:
    return [f"{app}@*", f"{app}.*@*"]


def redis_units(plan: Plan) -> list[str]:
    """The unit of its instance of Redis, if the restore replaces its data."""
    return [f"app-redis-{plan.app}.service"] if plan.redis else []


def active_units(plan: Plan) -> list[str]:
    chosen = [*patterns(plan.app), *redis_units(plan)]
    listed = systemctl("list-units", "--plain", "--no-legend", "--state=active", *chosen).splitlines()
    return [line.split()[0] for line in listed]


def stop_units(plan: Plan) -> None:
    # Sockets and timers first, as they start services; Redis last, as the app uses it until it ends.
    for kind in ("socket", "timer", "service"):
        systemctl("stop", *(f"{pattern}.{kind}" for pattern in patterns(plan.app)))
    if units := redis_units(plan):
        systemctl("stop", *units)


def start_units(plan: Plan) -> None:
    """Start the units that ran before the restore.

    Raises:
        BackupError: when one does not start.
    """
    redis = [unit for unit in plan.units if unit in redis_units(plan)]
    own = [[unit for unit in plan.units if unit.endswith(f".{kind}")] for kind in ("socket", "service", "timer")]
    for units in (redis, *own):
        if units and subprocess.run(["systemctl", "start", *units], capture_output=True).returncode:
            raise BackupError(f"{', '.join(units)}: not all of them start.\nSee: journalctl -u '{plan.app}*'")


def systemctl(*argv: str) -> str:
    return subprocess.run(["systemctl", *argv], capture_output=True, text=True).stdout.strip()
