"""The systemd units of an app, which a restore stops and starts."""

from __future__ import annotations

import subprocess

from backups.plans import Plan
from backups.settings import BackupError


def patterns(app: str) -> list[str]:
    return [f"{app}@*", f"{app}.*@*"]


def active_units(app: str) -> list[str]:
    listed = systemctl("list-units", "--plain", "--no-legend", "--state=active", *patterns(app)).splitlines()
    return [line.split()[0] for line in listed]


def stop_units(app: str) -> None:
    # Sockets and timers first, as they start services.
    for kind in ("socket", "timer", "service"):
        systemctl("stop", *(f"{pattern}.{kind}" for pattern in patterns(app)))


def start_units(plan: Plan) -> None:
    """Start the units that ran before the restore.

    Raises:
        BackupError: when one does not start.
    """
    for kind in ("socket", "service", "timer"):
        units = [unit for unit in plan.units if unit.endswith(f".{kind}")]
        if units and subprocess.run(["systemctl", "start", *units], capture_output=True).returncode:
            raise BackupError(f"{', '.join(units)}: not all of them start.\nSee: journalctl -u '{plan.app}*'")


def systemctl(*argv: str) -> str:
    return subprocess.run(["systemctl", *argv], capture_output=True, text=True).stdout.strip()
