"""Undo changes to users, SSH and the firewall that would lock out the administrator.

Before such a change, the host makes a backup of its settings and starts a timer that restores them. After the change,
Ansible logs in over a new connection and confirms, which stops the timer. The host restores the backup by itself: it
needs neither the control node nor a connection, and it also does so after a reboot.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import subprocess
import tarfile
from pathlib import Path

from ansible_collections.blueoctopus.site.plugins.module_utils.files import read, write

TIMEOUT = 60  # seconds from the last change to the undo
_locks: list[int] = []  # held until the module ends
STATE = Path("/var/lib/undo-lockout")
ARMED = STATE / "armed"  # contains the token of the unconfirmed change
PROGRAM = Path("/usr/local/sbin/undo-lockout")
UNITS = Path("/etc/systemd/system")
# The files that guarded changes may modify.
GUARDED = ("etc/ssh", "etc/systemd/system/ssh.socket.d", "etc/ufw", "etc/default/ufw", "etc/sudoers.d")

UNDO = r"""#!/bin/sh
# Restores the users, SSH and firewall settings that this host had before an unconfirmed change.
#   undo-lockout                  restores them; called by the timer
#   undo-lockout confirm TOKEN    confirms the change, which stops the timer
set -u
cd /var/lib/undo-lockout || exit 0
# One at a time: a module with a change, a confirmation, an undo. After the timeout, a module that hangs is ignored.
exec 9>lock
flock --wait 120 9

if [ "${1:-}" = confirm ]; then
    [ "$(cat armed 2>/dev/null)" = "${2:-}" ] || { echo "Too late: the host has undone the change."; exit 3; }
    sync
    rm armed
    systemctl stop undo-lockout.timer
    rm -f before.tar guarded
    exit 0
fi
[ -e armed ] || exit 0
echo "The change was not confirmed: restoring the previous users, SSH and firewall settings."
failed=
while read -r path; do rm -rf "/${path:?}"; done <guarded
tar --extract --preserve-permissions --file before.tar --directory / || failed=1
systemctl daemon-reload || failed=1
if systemctl --quiet is-enabled ssh.socket; then
    # Together: between two commands, a connection could start sshd again, and the socket could not be restarted.
    systemctl stop ssh.socket ssh.service
    systemctl start ssh.socket || failed=1
else
    systemctl reload-or-restart ssh.service || failed=1
fi
# Last, so that SSH does not wait for the firewall.
if grep -q '^ENABLED=yes' ufw.conf 2>/dev/null; then
    ufw reload || failed=1
elif command -v ufw >/dev/null; then
    ufw --force disable || failed=1
fi
[ -z "$failed" ] || exit 1
sync
rm armed before.tar guarded
"""
SERVICE = f"""[Unit]
Description=Undo an unconfirmed change to users, SSH or the firewall
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart={PROGRAM}
# Retried until it succeeds, as no one can log in to do it.
Restart=on-failure
RestartSec=2
"""
TIMER = f"""[Unit]
Description=Timeout for the confirmation of a change to users, SSH or the firewall
StartLimitIntervalSec=0

[Timer]
OnActiveSec={TIMEOUT}
AccuracySec=1

[Install]
WantedBy=timers.target
"""


def lock() -> None:
    """Block the undo and confirmations until this module has ended."""
    if not _locks:
        STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
        _locks.append(os.open(STATE / "lock", os.O_CREAT | os.O_WRONLY, 0o600))
        fcntl.flock(_locks[0], fcntl.LOCK_EX)


def arm(*more: Path) -> str:
    """Back up the settings, unless an earlier change is still unconfirmed, and restart the undo timer.

    Args:
        more: further files to back up, such as a user's keys.

    Returns:
        The token for the confirmation; it replaces any earlier one.
    """
    lock()
    files = {PROGRAM: UNDO, UNITS / "undo-lockout.service": SERVICE, UNITS / "undo-lockout.timer": TIMER}
    for file, text in files.items():
        if read(file) != text:
            write(file, text, 0o755 if file == PROGRAM else 0o644)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    subprocess.run(["systemctl", "enable", "--quiet", "undo-lockout.timer"], check=True)
    guarded = [*GUARDED, *(str(path).lstrip("/") for path in more)]
    if not ARMED.exists():
        (STATE / "guarded").write_text("".join(f"{path}\n" for path in guarded))
        with tarfile.open(STATE / "before.tar", "w") as before:
            for path in filter(os.path.lexists, (f"/{path}" for path in guarded)):
                before.add(path)
        (STATE / "ufw.conf").write_text(read(Path("/etc/ufw/ufw.conf")))
        os.sync()
    elif more:
        add_to_backup(guarded)
    write(ARMED, secrets.token_hex(8), 0o600)
    return restart_undo_timer()


def add_to_backup(guarded: list[str]) -> None:
    """Add files that are not in the backup of an earlier unconfirmed change."""
    saved = (STATE / "guarded").read_text().splitlines()
    with tarfile.open(STATE / "before.tar", "a") as before:
        for path in (path for path in guarded if path not in saved):
            if os.path.lexists(f"/{path}"):
                before.add(f"/{path}")
            saved.append(path)
    (STATE / "guarded").write_text("".join(f"{path}\n" for path in saved))


def restart_undo_timer() -> str:
    """Restart the undo timer of an unconfirmed change, by this run or by an interrupted one.

    Returns:
        The token of that change; empty when no change is unconfirmed.
    """
    if not ARMED.exists():
        return ""
    lock()
    if not ARMED.exists():  # the undo has just run
        return ""
    # It may have started and be waiting for the lock.
    subprocess.run(["systemctl", "stop", "undo-lockout.service"], check=True)
    subprocess.run(["systemctl", "restart", "undo-lockout.timer"], check=True)
    return ARMED.read_text()
