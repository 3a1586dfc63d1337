"""Grade hosts with external tools, before and after the roles. See script/grade.

    python host.py before SCENARIO NAME…
    python host.py after SCENARIO NAME…

Lynis runs from a temporary folder, so that it does not change the host that it examines.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import partial

import yaml
from common import PROJECT, TOOLS, Host, Result, run, table, tell

NOTES = PROJECT / ".grade/before"
EXPLAINED = PROJECT / "docs/security.md"
SSH = PROJECT / "roles/ssh/vars/main.yml"
# Files of Debian packages that the roles change.
MANAGED = {
    "/etc/default/debsums",
    "/etc/default/ufw",
    "/etc/issue",
    "/etc/issue.net",
    "/etc/login.defs",
    "/etc/logrotate.d/nginx",
    "/etc/nginx/nginx.conf",
    "/etc/ufw/ufw.conf",
}
POLICIES = {"12": "Hardened Debian 12 (version 3)", "13": "Hardened Debian 13 (version 1)"}

LYNIS = """
rm -rf /tmp/lynis && mkdir /tmp/lynis && cd /tmp/lynis || exit
{ apt-get update && apt-get download lynis && dpkg -x lynis_*.deb .; } >/dev/null 2>&1
cd usr/share/lynis || exit
own="--profile /tmp/lynis/etc/lynis/default.prf --plugindir /tmp/lynis/etc/lynis/plugins"
../../sbin/lynis audit system --quiet $own --report-file /tmp/lynis/report --log-file /tmp/lynis/log >/dev/null 2>&1
cat /tmp/lynis/report
rm -rf /tmp/lynis
"""


def lynis(host: Host) -> Result:
    """The hardening index; docs/security.md must explain each remaining suggestion."""
    report = host.run_as_root(LYNIS)
    found = re.search(r"^hardening_index=(\d+)$", report, re.MULTILINE)
    index = int(found[1]) if found else 0
    warnings = re.findall(r"^warning\[\]=(.*)$", report, re.MULTILINE)
    suggestions = {line.split("|")[0] for line in re.findall(r"^suggestion\[\]=(.*)$", report, re.MULTILINE)}
    unexplained = sorted(test for test in suggestions if f"`{test}`" not in EXPLAINED.read_text())
    tell("Lynis", host.name, f"warnings: {warnings}; not explained: {' '.join(unexplained) or 'none'}")
    # Ten sessions in a connection cost three of about 230 points.
    mark = (88 if host.reach.get("machine_vm") else 85) - (0 if host.reach.get("ssh_strict") else 2)
    words = f"{index}, {len(warnings)} warnings, {len(suggestions)} suggestions"
    return words, index >= mark and not warnings and not unexplained


def debian(host: Host) -> str:
    """The version of Debian on a host."""
    return host.run(". /etc/os-release && echo $VERSION_ID").strip()


def ssh_audit(host: Host) -> Result:
    """The policy for the Debian version of the host. Only ssh_strict removes the key exchanges for older clients."""
    target = f"{host.address}:{host.port}"
    shown = run(TOOLS / "ssh-audit", "--json", "--policy", POLICIES[debian(host)], target)
    report = json.loads(shown.partition("\n")[0] or "{}")
    if report.get("passed"):
        return "passes", True
    for_older_clients = set(yaml.safe_load(SSH.read_text())["__ssh_classic_key_exchanges"])
    errors = report.get("errors", [])
    if len(errors) == 1 and errors[0]["mismatched_field"] == "Key exchanges" and not host.reach.get("ssh_strict"):
        expected, actual = set(errors[0]["expected_required"]), set(errors[0]["actual"])
        if actual - expected == for_older_clients and not expected - actual:
            return "passes, except key exchanges for older clients", True
    tell("ssh-audit", host.name, shown.strip())
    return "fails", False


def nmap(host: Host, *options: str) -> dict[str, str]:
    """Ports and their states, scanned from outside; without ports whose packets the firewall drops."""
    shown = run("nmap", "-n", "-Pn", "--min-rate", "1000", *options, host.address, "-oG", "-")
    found = re.findall(r"(\d+)/(\w+(?:\|\w+)?)/(?:tcp|udp)/", shown)
    return {port: state for port, state in found if state in ("open", "closed")}


def tcp(host: Host) -> Result:
    """Every TCP port."""
    reached = nmap(host, "-sS", "-p-")
    shut = sum(state == "closed" for state in reached.values())
    open_ports = [port for port, state in reached.items() if state == "open"]
    words = f"open: {', '.join(open_ports)}" + (f"; {shut} not filtered, but closed" if shut else "")
    return words, set(reached) == {str(host.port), "80", "443"}


def udp(host: Host) -> Result:
    """The 1,000 most common UDP ports. With HTTP/3, port 443 is open but need not respond to nmap."""
    reached = nmap(host, "-sU", "--top-ports", "1000", "--max-retries", "1")
    words = ", ".join(f"{port} {state}" for port, state in reached.items())
    return words or "none", set(reached) <= ({"443"} if debian(host) == "13" else set())


def exposure(unit: str, mark: float, host: Host) -> Result:
    """The exposure of a unit as packaged and as configured, from systemd-analyze."""
    found = re.compile(r"exposure level for .*: ([0-9.]+)")
    name = unit
    if unit == "APP":
        app, release = host.run("cd /srv && set -- */live && echo ${1%/live} $(basename $(readlink $1))").split()
        name = f"{app}@{release}"
    now = found.search(host.run_as_root(f"systemd-analyze security --no-pager {name}.service"))
    # Under another name, so that drop-in files do not apply.
    packaged = f"cp /lib/systemd/system/{unit}.service /tmp/packaged.service && systemd-analyze security --no-pager"
    before = found.search(
        host.run_as_root(f"{packaged} --offline=true /tmp/packaged.service; rm -f /tmp/packaged.service")
    )
    words = f"{before[1]} → " if before else ""
    return (f"{words}{now[1]}", float(now[1]) <= mark) if now else ("not there", False)


def debsums(host: Host) -> Result:
    """The files of packages that differ from those that Debian ships."""
    changed = set(host.run_as_root("debsums --all --changed 2>/dev/null").split())
    if others := changed - MANAGED:
        tell("debsums", host.name, f"not by the roles: {' '.join(sorted(others))}")
    return f"{len(changed)} changed, {len(others)} of them not by the roles", not others


EVER: dict[str, Callable[[Host], Result]] = {
    "Lynis, index": lynis,
    "ssh-audit, hardened Debian": ssh_audit,
    "nmap, all TCP ports": tcp,
}
AFTER: dict[str, Callable[[Host], Result]] = {
    "nmap, 1,000 UDP ports": udp,
    "systemd-analyze security, app": partial(exposure, "APP", 1.5),
    "the same, nginx": partial(exposure, "nginx", 2.5),
    "the same, fail2ban": partial(exposure, "fail2ban", 4),
    "debsums": debsums,
}


def compared(scenario: str, title: str, grader: Callable[[Host], Result], name: str) -> Result:
    """A result after the roles, with the result before the roles in front."""
    notes = NOTES / f"{name}.json"
    before = json.loads(notes.read_text()).get(title) if notes.exists() else None
    words, good = grader(Host(scenario, name))
    return f"{before} → {words}" if before else words, good


if __name__ == "__main__":
    action, scenario, names = sys.argv[1], sys.argv[2], sys.argv[3:]
    if action == "before":
        NOTES.mkdir(parents=True, exist_ok=True)
        for name in names:
            said = {title: grader(Host(scenario, name))[0] for title, grader in EVER.items()}
            (NOTES / f"{name}.json").write_text(json.dumps(said))
    else:
        for name in names:  # as in its first night: the image may be older than the last security updates
            Host(scenario, name).run_as_root("apt-get update && unattended-upgrade")
        rows = {title: partial(compared, scenario, title, grader) for title, grader in (EVER | AFTER).items()}
        sys.exit(not table(names, rows))
