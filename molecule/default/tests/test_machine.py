"""The firewall, the processes and the permissions of a host."""

from __future__ import annotations

import shlex
import socket

import pytest
from testing import Machine, Web, wait_for

testinfra_hosts = ["ansible://webservers"]


def listen(machine: Machine, port: int) -> None:
    """Start a program that listens on every address of the machine, like a service with a careless configuration."""
    with machine.host.sudo():
        if not machine.host.socket(f"tcp://{port}").is_listening:
            machine.host.run_expect([0], f"systemd-run --collect python3 -m http.server --bind :: {port}")
        wait_for(lambda: machine.host.socket(f"tcp://{port}").is_listening, 10, f"port {port} listens")


def workers(machine: Machine, app: str) -> int:
    """The number of gunicorn workers that run as the app's user; fails unless there is exactly one master."""
    with machine.host.sudo():
        processes = machine.host.process.filter(user=app)
    masters = [process for process in processes if process.ppid == 1]
    assert ["gunicorn" in process.args for process in masters] == [True], processes
    return sum(process.ppid == masters[0].pid for process in processes)


@pytest.mark.parametrize(
    ("port", "is_open"),
    [(5000, False), (9100, True), (9200, False)],
    ids=["not in the inventory", "for all addresses, on one host", "for another address"],
)
def test_only_the_ports_of_the_inventory_are_open(machine: Machine, port: int, is_open: bool) -> None:
    listen(machine, port)
    allowed_here = any(str(rule["port"]) == str(port) for rule in machine.variables.get("firewall_allow", []))
    assert machine.accepts(port) == (is_open and allowed_here)
    assert machine.accepts(22)


def test_firewall_also_filters_ipv6(machine: Machine) -> None:
    listen(machine, 5000)
    shown = machine.host.check_output("ip -6 -o address show dev host0 scope link")
    address = f"{shown.split()[3].split('/')[0]}%blueoctopus0"
    socket.create_connection((address, machine.web.port), timeout=3).close()
    with pytest.raises(TimeoutError):
        socket.create_connection((address, 5000), timeout=2)


def test_app_listens_on_no_port(machine: Machine) -> None:
    listening = machine.host.check_output("ss -Htln").splitlines()
    local = [line.split()[3] for line in listening]
    ours = [a for a in local if a.rsplit(":", 1)[1] not in ("22", "443", "5000", "9100", "9200", str(machine.web.port))]
    assert ours == []


def test_gunicorn_runs_the_configured_number_of_workers(machine: Machine) -> None:
    assert workers(machine, "echo") == machine.variables["echo_workers"]


def test_default_number_of_workers_depends_on_the_cores(machine: Machine) -> None:
    cores = int(machine.host.check_output("nproc"))
    assert workers(machine, "blueoctopus") == 2 * cores + 1


@pytest.mark.parametrize("app", ["blueoctopus", "echo"])
def test_user_of_the_app_can_write_only_to_its_data_folder(machine: Machine, app: str) -> None:
    with machine.host.sudo():
        found = machine.host.run(
            f"runuser -u {app} -- find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /tmp "
            "-o -path /var/tmp -o -path /run/lock -o -path /var/lock \\) -prune -o ! -type l -writable -print"
        ).stdout.split()
    assert found == [f"/srv/{app}/data"]


def test_running_app_can_write_only_to_its_data_folder(machine: Machine, echo: Web) -> None:
    release = f"/srv/echo/releases/{machine.live('echo')}"
    assert echo.ask("/write?path=/srv/echo/data/test", "POST").status == 200
    with machine.host.sudo():
        machine.host.check_output("rm /srv/echo/data/test")
    for path in (f"{release}/source/echo.py", f"{release}/new", "/etc/new", "/srv/echo/new", "/run/new", "/home/new"):
        assert echo.ask(f"/write?path={path}", "POST").status == 403, path


@pytest.mark.parametrize(
    "path",
    [
        "/srv/blueoctopus/live/source/main.py",
        "/srv/blueoctopus/live/environment",
        "/srv/blueoctopus/live/manifest",
        "/srv/blueoctopus/data",
        "/srv/echo/live/environment",
        "/etc/shadow",
    ],
)
def test_app_cannot_read_files_of_other_users(machine: Machine, path: str) -> None:
    read = f"sh -c 'cat {path} || ls -A {path}/'"  # a file or a folder
    with machine.host.sudo():
        assert machine.host.run(f"runuser -u root -- {read}").rc == 0
        assert machine.host.run(f"runuser -u echo -- {read}").rc != 0


def test_only_nginx_can_connect_to_the_socket_of_an_app(machine: Machine) -> None:
    program = (
        "import os, socket; "
        "socket.socket(socket.AF_UNIX).connect(os.path.realpath('/srv/blueoctopus/live/socket')); print('connected')"
    )
    with machine.host.sudo():
        for user, connects in (("www-data", True), ("echo", False), ("nobody", False)):
            done = machine.host.run(f"runuser -u {user} -- python3 -c {shlex.quote(program)}")
            assert (done.stdout.strip() == "connected") == connects, done.stderr


def test_secrets_are_only_in_files_that_only_root_can_read(machine: Machine) -> None:
    with machine.host.sudo():
        found = machine.host.run(
            "grep -rl squid-ink-4711 /srv /etc /run /var /tmp --exclude-dir=journal"
        ).stdout.split()
        live = machine.live("echo")
        assert f"/srv/echo/releases/{live}/environment" in found
        for path in found:
            assert (machine.host.file(path).mode, machine.host.file(path).user) == (0o600, "root"), path
        # sudo logs the commands of this test itself.
        noted = machine.host.run("journalctl --no-pager").stdout.splitlines()
        assert [line for line in noted if "squid-ink-4711" in line and "COMMAND=" not in line] == []
