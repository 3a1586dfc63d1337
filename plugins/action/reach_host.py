"""Find the login that works, wait until the host is ready, and detect its system. Needs no Python on the host."""

from __future__ import annotations

import getpass
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.blueoctopus.site.plugins.plugin_utils.login import execute, is_remote, run_as

PAUSE = 3  # seconds between two attempts
PAUSE_AFTER_DENIAL = 15  # longer, so that fail2ban does not ban the control node
NO_CONNECTION = ("refused", "timed out", "No route", "unreachable")
# During a first boot, sshd may start before cloud-init installs the keys. After that, a denial is final.
KEYS_TIMEOUT = 60  # seconds
FIRST_BOOT_TIMEOUT = 900  # seconds that a first boot may take
# Prints os-release, the number of cores, the apps with an instance of Redis, those whose certificates are renewed, and
# whether the host has Python, a program that sets the clock, alerts, metrics, the service that ships logs, and HTTP/3.
SYSTEM_INFO = """cat /etc/os-release
command -v python3 >/dev/null && echo PYTHON=yes
PATH=$PATH:/usr/sbin
command -v chronyd ntpd >/dev/null && echo CLOCK=yes
[ -e /etc/systemd/system/alert.timer ] && echo ALERTS=yes
[ -e /etc/metrics ] && echo METRICS=yes
[ -e /etc/systemd/system/logs-ship.service ] && echo LOGS=yes
ss -Hlun 'sport = :443' 2>/dev/null | grep -q . && echo HTTP3=yes
echo CORES=$(nproc)
echo REDIS=\\'$(ls /etc/app-redis 2>/dev/null)\\'
echo CERTIFICATES=\\'$(ls /etc/certificates 2>/dev/null)\\'
"""
# Prints the home of each user with one of these names; an empty one when there is only a group with the name.
ACCOUNTS = """for name in {names}; do
    entry=$(getent passwd "$name") || getent group "$name" >/dev/null || continue
    echo "HOME:$name='$(echo "$entry" | cut -d: -f6 | tr -d "'")'"
done
"""
HOME = "HOME:"
# Prints the unfinished jobs of a first boot. The holder of a lock is found by the inode of the lock file.
FIRST_BOOT_JOBS = r"""
if command -v cloud-init >/dev/null && cloud-init status 2>/dev/null | grep -q 'status: running'; then
    echo 'cloud-init is running'
fi
for lock in /var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock; do
    [ -e $lock ] || continue
    pid=$(awk -v inode=":$(stat -c %i $lock)$" '$6 ~ inode { print $5 }' /proc/locks | head -n 1)
    [ -z "$pid" ] || { echo "$(cat /proc/$pid/comm 2>/dev/null || echo a program) holds the dpkg lock"; break; }
done
"""
# Errors that waiting does not fix.
FATAL = ("Could not resolve hostname", "Host key verification failed", "IDENTIFICATION HAS CHANGED")


def parse(os_release: str) -> dict[str, str]:
    """The settings of an os-release file, see os-release(5)."""
    pairs = (line.split("=", 1) for line in os_release.splitlines() if "=" in line and not line.startswith("#"))
    return {key: " ".join(shlex.split(value)) for key, value in pairs}


@dataclass(frozen=True)
class Logins:
    """The possible logins: that of a fresh host, and that of a provisioned one.

    Args:
        first: user and port of the fresh host.
        admin_user: value in the inventory; empty when it is not set.
        ssh_port: value in the inventory; 0 when it is not set.
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

    def candidates(self) -> list[tuple[str, int]]:
        """Every combination of user and port once, the final one first."""
        users, ports = (self.administrator, self.first[0]), (self.port, self.first[1])
        return list(dict.fromkeys((user, port) for port in ports for user in users))


def facts(system: Mapping[str, str]) -> dict[str, str]:
    """The distribution, as in the facts that Ansible gathers, from the fields of /etc/os-release."""
    major = system.get("VERSION_ID", "").split(".")[0]
    return {"distribution": system.get("ID", "").capitalize(), "distribution_major_version": major}


class ActionModule(ActionBase):
    """Find the login; wait up to `patience` seconds for the host."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        variables = task_vars or {}
        name, patience = variables["inventory_hostname"], int(self._task.args.get("patience", 0))
        logins = self.logins(variables)
        candidates = logins.candidates() if is_remote(self._connection) else [logins.first]
        accounts = shlex.join(self._task.args.get("accounts", []))
        (user, port), output = self.find_login(name, candidates, patience, ACCOUNTS.format(names=accounts))
        if patience:
            self.wait_for_first_boot(name)
        if user != "root" and (refusal := self.sudo_problem(user)):
            return result | {"failed": True, "msg": refusal}
        system = parse(output)
        asked = ("PYTHON", "CLOCK", "ALERTS", "METRICS", "LOGS", "HTTP3")
        present = {name.lower(): system.pop(name, "") == "yes" for name in asked}
        found: dict[str, Any] = {"cores": int(system.pop("CORES", "") or 1)}
        found |= {"accounts": {key[len(HOME) :]: system.pop(key) for key in [*system] if key.startswith(HOME)}}
        for key, suffix in {"redis": ".conf", "certificates": ".json"}.items():
            files = system.pop(key.upper(), "").split()
            found[key] = [name.removesuffix(suffix) for name in files if name.endswith(suffix)]
        current, final = {"user": user, "port": port}, {"administrator": logins.administrator, "sshd_port": logins.port}
        given = {"sudo_password_given": self.has_sudo_password()}
        return result | {
            "system": system,
            **present,
            **found,
            **current,
            **final,
            **given,
            "ansible_facts": facts(system),
        }

    def logins(self, variables: dict[str, Any]) -> Logins:
        """The possible logins, from the inventory and the command line."""

        remote = is_remote(self._connection)

        def setting(key: str, option: str = "") -> str:
            value = self._templar.template(variables.get(key) or "")
            return str(value or (option and remote and self._connection.get_option(option)) or "")

        first = setting("ansible_user", "remote_user") or getpass.getuser(), int(setting("ansible_port", "port") or 22)
        return Logins(first, setting("admin_user"), int(setting("ssh_port") or 0))

    def find_login(
        self, name: str, logins: list[tuple[str, int]], patience: int, script: str = ""
    ) -> tuple[tuple[str, int], str]:
        """Find a login that works; return it and the output of SYSTEM_INFO and of a further script.

        Raises:
            AnsibleConnectionFailure: when no login works before the time is over.
        """
        began, reported = time.monotonic(), 0.0
        while True:
            reasons: dict[tuple[str, int], str] = {}
            for user, port in logins:
                if any(p == port and any(w in reason for w in NO_CONNECTION) for (_, p), reason in reasons.items()):
                    continue
                try:
                    return (user, port), run_as(self._connection, user, port, SYSTEM_INFO + script)
                except AnsibleConnectionFailure as error:
                    reasons[user, port] = reason_of(error)
            waited = time.monotonic() - began
            denied = any("denied" in reason for reason in reasons.values())
            is_fatal = any(words in reason for reason in reasons.values() for words in FATAL)
            if is_fatal or waited >= (min(patience, KEYS_TIMEOUT) if denied else patience):
                raise AnsibleConnectionFailure("; ".join(f"{u} on port {p}: {r}" for (u, p), r in reasons.items()))
            if time.monotonic() - reported > 10:
                reported = time.monotonic()
                shown = "; ".join(dict.fromkeys(reasons.values()))
                report(name, f"{shown}. Waiting up to {patience - waited:.0f} s")
            time.sleep(PAUSE_AFTER_DENIAL if denied else PAUSE)

    def wait_for_first_boot(self, name: str) -> None:
        """Wait for the jobs of a first boot. Role base waits for the dpkg lock again, in case another job starts."""
        deadline, reported = time.monotonic() + FIRST_BOOT_TIMEOUT, 0.0
        connection = self._connection
        while (
            jobs := ", ".join(execute(connection, FIRST_BOOT_JOBS)[1].split("\n")).strip(", ")
        ) and time.monotonic() < deadline:
            if time.monotonic() - reported > 10:
                reported = time.monotonic()
                report(name, f"{jobs}. Waiting up to {deadline - reported:.0f} s")
            time.sleep(PAUSE)

    def has_sudo_password(self) -> bool:
        """Whether the inventory or the command line gives a password for sudo. Needs a task with `become`."""
        return bool(self.get_become_option("become_pass"))

    def sudo_problem(self, user: str) -> str:
        """Why this user can't become root; empty when sudo works, or when a password for it was given."""
        if self.has_sudo_password():
            return ""
        code, _out, err = execute(self._connection, "sudo -n true")
        if not code:
            return ""
        return (
            f"{user} can log in, but can't become root: {err.strip()}\n  If sudo asks for a password, add "
            f"--ask-become-pass. Otherwise allow {user} to use sudo, or set ansible_user to a user who can."
        )


def reason_of(error: AnsibleConnectionFailure) -> str:
    """The line of ssh's output that gives the reason of a failure."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for words in FATAL:
        if any(words in line for line in lines):
            return next(line for line in lines if words in line)
    return lines[-1].removeprefix("Failed to connect to the host via ssh: ") if lines else "no answer"


def report(name: str, text: str) -> None:
    """Show why the run waits."""
    Display().display(f"{name}: {text}")
