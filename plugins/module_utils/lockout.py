"""Keep a change to who may get in from locking everybody out.

Before such a change the host notes how things are, and arms a timer that puts them back. Whoever made the change then
gets in the new way, over a new connection, and disarms it. Nobody has to be there for the way back: not the one who
made the change, nor the connection, and a reboot in between is no harm.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import subprocess
import tarfile
from pathlib import Path

from ansible_collections.blueoctopus.site.plugins.module_utils.files import read, write

PATIENCE = 60  # seconds from the last change to the way back
_locks: list[int] = []  # held until the module ends
STATE = Path("/var/lib/undo-lockout")
ARMED = STATE / "armed"  # holds the token of whoever armed it
PROGRAM = Path("/usr/local/sbin/undo-lockout")
UNITS = Path("/etc/systemd/system")
# Everything that the guarded changes touch.
GUARDED = ("etc/ssh", "etc/systemd/system/ssh.socket.d", "etc/ufw", "etc/default/ufw", "etc/sudoers.d")

UNDO = r"""#!/bin/sh
# Put back how this machine let people in, as noted before a change that nobody confirmed.
#   undo-lockout                  what the timer does
#   undo-lockout confirm TOKEN    somebody got in the new way: leave it so
set -u
cd /var/lib/undo-lockout || exit 0
# One at a time: a module that changes something, a confirmation, the way back. A module that hangs stops nobody.
exec 9>lock
flock --wait 120 9

if [ "${1:-}" = confirm ]; then
    [ "$(cat armed 2>/dev/null)" = "${2:-}" ] || { echo "The former state was put back before."; exit 3; }
    sync
    rm armed
    systemctl stop undo-lockout.timer
    rm -f before.tar guarded
    exit 0
fi
[ -e armed ] || exit 0
echo "Nobody got in the new way: putting back how people got in before."
failed=
while read -r path; do rm -rf "/${path:?}"; done <guarded
tar --extract --preserve-permissions --file before.tar --directory / || failed=1
systemctl daemon-reload || failed=1
if systemctl --quiet is-enabled ssh.socket; then
    systemctl stop ssh.service
    systemctl restart ssh.socket || failed=1
else
    systemctl reload-or-restart ssh.service || failed=1
fi
# Last, so that SSH waits for no firewall.
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
Description=Put back how people got in, after a change that nobody confirmed
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart={PROGRAM}
# Nobody else can: it goes on until it has worked.
Restart=on-failure
RestartSec=2
"""
TIMER = f"""[Unit]
Description=Wait for somebody to get in the new way
StartLimitIntervalSec=0

[Timer]
OnActiveSec={PATIENCE}
AccuracySec=1

[Install]
WantedBy=timers.target
"""


def lock() -> None:
    """Let neither the way back nor a confirmation come in between until this module has ended."""
    if not _locks:
        STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
        _locks.append(os.open(STATE / "lock", os.O_CREAT | os.O_WRONLY, 0o600))
        fcntl.flock(_locks[0], fcntl.LOCK_EX)


def arm(*more: Path) -> str:
    """Note how things are, unless a change before this one still waits to be confirmed, and start the timer anew.

    Args:
        more: files beside those that are always noted, such as somebody's keys.

    Returns:
        The token to confirm with, which counts in place of any before it.
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
    """Add what a change before this one did not touch."""
    noted = (STATE / "guarded").read_text().splitlines()
    with tarfile.open(STATE / "before.tar", "a") as before:
        for path in (path for path in guarded if path not in noted):
            if os.path.lexists(f"/{path}"):
                before.add(f"/{path}")
            noted.append(path)
    (STATE / "guarded").write_text("".join(f"{path}\n" for path in noted))


def restart_undo_timer() -> str:
    """The token of a change that still waits to be confirmed, by this run or one that was cut off; empty if none.

    The time that it has for that begins anew.
    """
    if not ARMED.exists():
        return ""
    lock()
    if not ARMED.exists():  # the way back was faster
        return ""
    # It may have begun, and wait for the lock.
    subprocess.run(["systemctl", "stop", "undo-lockout.service"], check=True)
    subprocess.run(["systemctl", "restart", "undo-lockout.timer"], check=True)
    return ARMED.read_text()
