"""Reach a host by the login that works, wait until it is ready, and learn what it is. Needs no Python on the host."""

from __future__ import annotations

import getpass
import shlex
import time
from dataclasses import dataclass
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.blueoctopus.site.plugins.plugin_utils.login import execute, is_remote, knock

PAUSE = 3  # seconds between two tries
PAUSE_OF_REFUSED = 15  # so that nobody takes it for an attack
NOBODY_THERE = ("refused", "timed out", "No route", "unreachable")
# While a first boot goes on, sshd may be there before the keys are; later, a refusal is one.
KEYS_MAY_COME = 60
SETTING_UP = 900  # seconds that a first boot may take
# Prints os-release, and what else is there: Python, a program that sets the clock.
LOOK = """cat /etc/os-release
command -v python3 >/dev/null && echo PYTHON=yes
PATH=$PATH:/usr/sbin
command -v chronyd ntpd >/dev/null && echo CLOCK=yes"""
# Prints what a first boot still does; nothing when it is done. A lock is found by the inode of its file.
BUSY = r"""
if command -v cloud-init >/dev/null && cloud-init status 2>/dev/null | grep -q 'status: running'; then
    echo 'cloud-init is setting it up'
fi
for lock in /var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock; do
    [ -e $lock ] || continue
    pid=$(awk -v inode=":$(stat -c %i $lock)$" '$6 ~ inode { print $5 }' /proc/locks | head -n 1)
    [ -z "$pid" ] || { echo "$(cat /proc/$pid/comm 2>/dev/null || echo a program) holds the lock of dpkg"; break; }
done
"""
# What no waiting mends.
HOPELESS = ("Could not resolve hostname", "Host key verification failed", "IDENTIFICATION HAS CHANGED")


def parse(os_release: str) -> dict[str, str]:
    """The settings of an os-release file, see os-release(5)."""
    pairs = (line.split("=", 1) for line in os_release.splitlines() if "=" in line and not line.startswith("#"))
    return {key: " ".join(shlex.split(value)) for key, value in pairs}


@dataclass(frozen=True)
class Logins:
    """The ways to get in: what a fresh machine has, and what the inventory wants in the end.

    Args:
        first: user and port of the fresh machine.
        admin_user, ssh_port: what the inventory says of them; empty, and 0, when it says nothing.
    """

    first: tuple[str, int]
    admin_user: str
    ssh_port: int

    @property
    def administrator(self) -> str:
        return self.admin_user or ("admin" if self.first[0] == "root" else self.first[0])

    @property
    def port(self) -> int:
        return self.ssh_port or self.first[1]

    def all(self) -> list[tuple[str, int]]:
        """Every way once, the wanted one first."""
        users, ports = (self.administrator, self.first[0]), (self.port, self.first[1])
        return list(dict.fromkeys((user, port) for port in ports for user in users))


class ActionModule(ActionBase):
    """Find the login; wait for the host as many seconds as the argument `patience` says."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        variables = task_vars or {}
        name, patience = variables["inventory_hostname"], int(self._task.args.get("patience", 0))
        logins = self.logins(variables)
        ways = logins.all() if is_remote(self._connection) else [logins.first]
        (user, port), told = self.get_in(name, ways, patience)
        if patience:
            self.wait_until_set_up(name)
        if user != "root" and (refusal := self.may_not_be_root(variables, user)):
            return result | {"failed": True, "msg": refusal}
        system = parse(told)
        # By the name that a gathered fact would have.
        facts = {"distribution_major_version": system.get("VERSION_ID", "").split(".")[0]}
        there = {name.lower(): system.pop(name, "") == "yes" for name in ("PYTHON", "CLOCK")}
        now, later = {"user": user, "port": port}, {"administrator": logins.administrator, "sshd_port": logins.port}
        return result | {"system": system, **there, **now, **later, "ansible_facts": facts}

    def logins(self, variables: dict[str, Any]) -> Logins:
        """What the inventory, and the command line, say of the ways to get in."""

        remote = is_remote(self._connection)

        def setting(key: str, option: str = "") -> str:
            said = self._templar.template(variables.get(key) or "")
            return str(said or (option and remote and self._connection.get_option(option)) or "")

        first = setting("ansible_user", "remote_user") or getpass.getuser(), int(setting("ansible_port", "port") or 22)
        return Logins(first, setting("admin_user"), int(setting("ssh_port") or 0))

    def get_in(self, name: str, logins: list[tuple[str, int]], patience: int) -> tuple[tuple[str, int], str]:
        """Find a login that works; it and what LOOK printed come back.

        Raises:
            AnsibleConnectionFailure: when there is none, even after waiting.
        """
        began, told = time.monotonic(), 0.0
        while True:
            reasons: dict[tuple[str, int], str] = {}
            for user, port in logins:
                if any(p == port and any(w in reason for w in NOBODY_THERE) for (_, p), reason in reasons.items()):
                    continue
                try:
                    return (user, port), knock(self._connection, user, port, LOOK)
                except AnsibleConnectionFailure as error:
                    reasons[user, port] = why(error)
            waited = time.monotonic() - began
            denied = any("denied" in reason for reason in reasons.values())
            hopeless = any(words in reason for reason in reasons.values() for words in HOPELESS)
            if hopeless or waited >= (min(patience, KEYS_MAY_COME) if denied else patience):
                raise AnsibleConnectionFailure("; ".join(f"{u} at port {p}: {r}" for (u, p), r in reasons.items()))
            if time.monotonic() - told > 10:
                told = time.monotonic()
                seen = "; ".join(dict.fromkeys(reasons.values()))
                tell(name, f"{seen}. Waiting for it, up to {patience - waited:.0f} s")
            time.sleep(PAUSE_OF_REFUSED if denied else PAUSE)

    def wait_until_set_up(self, name: str) -> None:
        """Wait for a first boot's jobs; the role base does so again, should another one begin."""
        deadline, told = time.monotonic() + SETTING_UP, 0.0
        connection = self._connection
        while (busy := ", ".join(execute(connection, BUSY)[1].split("\n")).strip(", ")) and time.monotonic() < deadline:
            if time.monotonic() - told > 10:
                told = time.monotonic()
                tell(name, f"{busy}. Waiting for it, up to {deadline - told:.0f} s")
            time.sleep(PAUSE)

    def may_not_be_root(self, variables: dict[str, Any], user: str) -> str:
        """Why this user can't become root; empty when nothing is in the way, or a password was given for it."""
        given = (variables.get("ansible_become_password"), variables.get("ansible_become_pass"))
        if any(given) or self._play_context.become_pass:
            return ""
        code, _out, said = execute(self._connection, "sudo -n true")
        if not code:
            return ""
        return (
            f"{user} can log in, but not become root: {said.strip()}\n  If sudo asks for a password: "
            f"--ask-become-pass. Otherwise give {user} sudo, or set ansible_user to a user who has it."
        )


def why(error: AnsibleConnectionFailure) -> str:
    """A failure in a line, by ssh's last words."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for words in HOPELESS:
        if any(words in line for line in lines):
            return next(line for line in lines if words in line)
    return lines[-1].removeprefix("Failed to connect to the host via ssh: ") if lines else "no answer"


def tell(name: str, what: str) -> None:
    """Say why nothing seems to happen."""
    Display().display(f"{name}: {what}")
