"""Protection against attacks: limits, bans, sandboxes, updates and the settings of a hardened host."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator

import pytest
from testing import Door, Machine, wait_for

testinfra_hosts = ["ansible://webservers"]
OTHER = {"sudo12": "root13", "root13": "sudo12"}
CONNECTIONS = "/proc/net/xt_recent/DEFAULT"  # that count for the firewall's limit, during 30 seconds

# Arguments: address, port, number of connections. Prints how many of them sshd accepted.
KNOCK = """
import socket, sys
taken = 0
for _ in range(int(sys.argv[3])):
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1) as link:
            taken += link.recv(4) == b"SSH-"
    except OSError:
        pass
print(taken)
"""
# Arguments: address, seconds. Requests a page repeatedly; prints the statuses, and the error that ended the requests.
ASK = """
import http.client, sys, time
seen, end, until = set(), "", time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    try:
        connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=3)
        for _ in range(100):
            connection.request("GET", "/", headers={"Host": "site.example"})
            answer = connection.getresponse()
            answer.read()
            seen.add(answer.status)
    except OSError as error:
        end = type(error).__name__
        break
print(*sorted(seen), end)
"""


@pytest.fixture
def stranger(machine: Machine, neighbour: Callable[[str], Door]) -> Iterator[Door]:
    """A client on another machine, which has no exemptions; its bans are removed at the end."""
    yield neighbour(OTHER[machine.name])
    with machine.host.sudo():
        machine.host.run_expect([0], "fail2ban-client unban --all")


def banned(machine: Machine, jail: str) -> list[str]:
    """The banned addresses of a jail."""
    with machine.host.sudo():
        shown = machine.host.check_output(f"fail2ban-client get {jail} banip")
    return str(shown).split()


def forget_connections(machine: Machine) -> None:
    """Reset the firewall's limit of SSH connections."""
    with machine.host.sudo():
        machine.host.run_expect([0], f"sh -c 'echo / >{CONNECTIONS}'")


def test_ssh_connections_of_one_client_are_limited(machine: Machine, door: Door, stranger: Door) -> None:
    with machine.host.sudo():
        machine.host.run_expect([0], "systemctl stop fail2ban")  # so that only the firewall limits
    taken = stranger.ssh(f"python3 -c {shlex.quote(KNOCK)} {door.address} {door.port} 12").stdout
    with machine.host.sudo():
        machine.host.run_expect([0], "systemctl start fail2ban")
    assert 3 <= int(taken) <= 6
    for _ in range(12):  # this computer is in admin_addresses
        assert door.opens()


def test_client_with_repeated_failed_logins_is_banned(machine: Machine, door: Door, stranger: Door) -> None:
    wait_for(lambda: banned(machine, "sshd") == [], 10, "fail2ban has started")
    forget_connections(machine)
    guess = f"ssh -p {door.port} -o BatchMode=yes -o ConnectTimeout=2 -o StrictHostKeyChecking=no"
    # Without the pauses, sshd of Debian 13 refuses the client itself (PerSourcePenalties).
    stranger.ssh(f"for i in 1 2 3 4 5; do {guess} nobody$i@{door.address}; sleep 3; done")
    wait_for(lambda: banned(machine, "sshd") == [stranger.address], 10, "the client is banned")
    forget_connections(machine)  # so that only the ban refuses
    refused = stranger.ssh(f"python3 -c {shlex.quote(KNOCK)} {door.address} {door.port} 1")
    assert refused.stdout.strip() == "0"
    assert door.opens()  # this computer is in admin_addresses
    with machine.host.sudo():
        rules = machine.host.check_output("ufw status")
        machine.host.run_expect([0], f"fail2ban-client set sshd unbanip {stranger.address}")
        assert rules == machine.host.check_output("ufw status")
    assert banned(machine, "sshd") == []


def test_client_that_exceeds_the_limits_is_banned_from_the_web(machine: Machine, door: Door, stranger: Door) -> None:
    shown = stranger.ssh(f"python3 -c {shlex.quote(ASK)} {door.address} 20").stdout.split()
    assert shown[:2] == ["200", "429"]
    assert shown[2:] == ["ConnectionRefusedError"] or shown[2:] == ["TimeoutError"]
    assert banned(machine, "nginx-limits") == [stranger.address]
    assert machine.web.ask("/").status == 200
    with machine.host.sudo():
        machine.host.run_expect([0], f"fail2ban-client set nginx-limits unbanip {stranger.address}")
    assert stranger.ssh(f"python3 -c {shlex.quote(ASK)} {door.address} 1").stdout.startswith("200")


@pytest.mark.parametrize(
    ("unit", "most"), [("blueoctopus", 0.8), ("nginx", 2.5), ("fail2ban", 4), ("certificates@renew:x", 2.5)]
)
def test_services_run_in_a_sandbox(machine: Machine, unit: str, most: float) -> None:
    if unit == "blueoctopus":
        unit = f"blueoctopus@{machine.live('blueoctopus')}.service"
    with machine.host.sudo():
        shown = machine.host.run(f"systemd-analyze security --no-pager '{unit}'").stdout
    found = re.search(r"exposure level for .*: ([0-9.]+)", shown)
    assert found, shown
    assert float(found[1]) <= most, shown


def test_app_without_network_has_only_the_loopback_interface(machine: Machine) -> None:
    unit = f"blueoctopus@{machine.live('blueoctopus')}.service"
    with machine.host.sudo():
        pid = machine.host.check_output(f"systemctl show --property=MainPID --value {unit}")
        links = machine.host.check_output(f"nsenter --target {pid} --net ip -brief link")
    assert [line.split()[0] for line in links.splitlines()] == ["lo"]
    assert machine.web.ask("/").status == 200


def test_security_updates_are_installed_automatically(machine: Machine) -> None:
    with machine.host.sudo():
        shown = machine.host.check_output("unattended-upgrade --dry-run --debug 2>&1")
        assert "label=Debian-Security" in shown
        for timer in ("apt-daily.timer", "apt-daily-upgrade.timer"):
            assert machine.host.service(timer).is_enabled
        settings = machine.host.check_output("apt-config dump Unattended-Upgrade APT::Periodic")
        assert 'Unattended-Upgrade::Automatic-Reboot "true"' in settings
        assert 'Unattended-Upgrade::Automatic-Reboot-Time "04:00"' in settings
        assert 'APT::Periodic::Unattended-Upgrade "1"' in settings
        machine.host.run_expect([0], "needrestart -b -r l")


def test_host_has_journal_clock_timezone_and_network_settings(machine: Machine) -> None:
    zone = machine.variables.get("base_timezone", "Etc/UTC")
    with machine.host.sudo():
        assert machine.host.check_output("timedatectl show --property=Timezone --value") == zone
        assert machine.host.check_output("journalctl --header | grep -c '^File path: /var/log/journal/'") != "0"
        assert machine.host.package("systemd-timesyncd").is_installed
        assert machine.host.sysctl("net.ipv4.conf.host0.accept_redirects") == 0
        assert machine.host.sysctl("net.ipv4.conf.host0.send_redirects") == 0
        assert machine.host.sysctl("net.ipv6.conf.host0.accept_source_route") == 0
        assert machine.host.sysctl("net.ipv4.conf.host0.rp_filter") == 2
        machine.host.run_expect([0], "logrotate --debug /etc/logrotate.conf")
        assert machine.host.check_output("systemctl --failed --no-legend --plain") == ""


def test_firewall_rules_that_are_not_in_the_inventory_are_removed(machine: Machine) -> None:
    with machine.host.sudo():
        rules = machine.host.check_output("ufw show added").splitlines()[1:]
    of_monitor = [rule for rule in rules if "9100" in rule]
    wanted = ["ufw allow from 192.0.2.1 to any port 9100 proto tcp comment 'monitor'"]
    assert of_monitor == (wanted if machine.name == "sudo12" else [])
    assert not any(f" {port}/tcp" in rule for rule in rules for port in (22, 2345, 2346))


def test_apps_cannot_run_compilers_or_programs_in_shared_memory(machine: Machine, door: Door) -> None:
    if machine.name == "sudo12":  # which has no compiler, unlike root13
        assert machine.host.run("/usr/bin/gcc --version").rc == 127
        with machine.host.sudo():
            machine.host.run_expect([0], "apt-get install --yes --no-install-recommends gcc")
    with machine.host.sudo("blueoctopus"):
        assert machine.host.run("/usr/bin/gcc --version").rc == 126
        machine.host.run_expect([0], "sh -c 'cp /bin/true /dev/shm/tool'")
        assert machine.host.run("/dev/shm/tool").rc == 126
    with machine.host.sudo():
        machine.host.run_expect([0], "sh -c 'rm /dev/shm/tool; gcc --version'")
        shown = machine.host.check_output(f"su --login {door.user} --command 'ulimit -H -c; echo $TMOUT'")
    assert shown.split() == ["0", "28800"]
