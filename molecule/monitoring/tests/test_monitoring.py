"""Metrics of two webservers on a monitor, and its alerts: each is caused, sent once, and over when its cause is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from monitoring.monitor import Monitor
from testing import Machine, Run, Web, wait_for

testinfra_hosts = ["ansible://webservers"]
Play = Callable[..., Run]
Root = Callable[[str], str]
HOSTS = ["web12", "web13", "monitor13"]
FOUND, OVER = 90, 120  # seconds
BACKUP = json.dumps({
    "settings": {
        "apps": [{"name": "echo"}],
        "targets": [{"name": "store"}],
        "max_age": {"backup": 50, "check": 340, "drill": 340},
        "since": 0,
    },
    "backups": {"echo": {"store": {"time": 1_577_836_800, "size": 5, "error": ""}}},  # in 2020
})  # fmt: skip
STATE = "/var/lib/certificates/echo/state.json"
EXPIRE = f"""
import json, time
state = json.load(open("{STATE}"))
state["not_after"] = time.time() + 5 * 86400
json.dump(state, open("{STATE}", "w"))
"""
# Each alert: the command that causes it, and the one that ends it. LIVE is the live release of the app echo; MONITOR is
# the address of the monitor.
CAUSES = {
    "AppDown": (
        "systemctl stop echo@LIVE.service echo@LIVE.socket",
        "systemctl start echo@LIVE.socket echo@LIVE.service",
    ),
    "UnitFailed": (
        "systemd-run --unit=broken --service-type=oneshot false || true",
        "systemctl reset-failed broken.service",
    ),
    "DiskFull": (
        "mount -t tmpfs -o size=20m,mode=1777 tmpfs /tmp && fallocate -l 19m /tmp/full",
        "umount --lazy /tmp",
    ),
    "CertificateExpires": (
        f"cp -p {STATE} {STATE}.kept && python3 -c '{EXPIRE}'",
        f"cp -p {STATE}.kept {STATE} && rm {STATE}.kept",
    ),
    "BackupBad": (
        "install -d -m 0755 /var/lib/backup /var/lib/backup/shared && cd /var/lib/backup/shared && "
        f"echo '{BACKUP}' >status.json && chmod 0644 status.json",
        "rm -r /var/lib/backup",
    ),
    "MetricsMissing": (
        "systemctl stop prometheus-nginx-exporter",
        "systemctl start prometheus-nginx-exporter",
    ),
    "NginxDown": ("systemctl stop nginx", "systemctl start nginx"),
    "HostGone": ("ip route add unreachable MONITOR/32", "ip route del unreachable MONITOR/32"),
}


@pytest.fixture
def address(monitor: Monitor) -> str:
    """The address of the monitor."""
    return str(monitor.host.ansible.get_variables()["ansible_host"])


def wait_until_found(monitor: Monitor, alert: str, machine: Machine) -> None:
    """Wait until an alert about the machine fires, and the receiver has got it."""
    wait_for(lambda: monitor.firing(alert, machine.name), FOUND, f"{alert} fires")
    wait_for(lambda: "firing" in monitor.received(alert, machine.name), FOUND, f"{alert} is received")


def wait_until_over(monitor: Monitor, alert: str, machine: Machine) -> None:
    """Wait until an alert about the machine is over, and the receiver knows; it got each message once."""
    wait_for(lambda: not monitor.firing(alert, machine.name), OVER, f"{alert} is over")
    wait_for(lambda: "resolved" in monitor.received(alert, machine.name), OVER, f"the end of {alert} is received")
    assert monitor.received(alert, machine.name) == ["firing", "resolved"]


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_the_monitor_reads_all_hosts(machine: Machine, monitor: Monitor) -> None:
    del machine
    up = wait_for(lambda: [entry for entry in monitor.query("up") if entry[1] == 1], 30, "something is up")
    assert {(labels["job"], labels["host"]) for labels, _ in up} == {
        *(("node", host) for host in HOSTS),
        *(("nginx", host) for host in ("web12", "web13")),
        ("postgres", "web13"),
        ("prometheus", "monitor13"),
        ("alertmanager", "monitor13"),
    }
    assert monitor.query("pg_up")[0][1] == 1
    assert {value for _, value in monitor.query("nginx_up")} == {1}
    assert {value for _, value in monitor.query("node_textfile_scrape_error")} == {0}


def test_requests_are_counted_also_when_the_log_was_rotated_in_between(
    machine: Machine, monitor: Monitor, shown: Web, root: Root
) -> None:
    release = machine.live("echo")
    query = f'sum(app_requests_total{{host="{machine.name}",app="echo",status="2xx",release="{release}"}})'
    count = f'app_request_duration_seconds_count{{host="{machine.name}",app="echo"}}'
    before, total = monitor.query(query)[0][1], monitor.query(count)[0][1]
    for number in range(40):
        assert shown.ask("/").status == 200
        if number == 20:
            root("logrotate --force /etc/logrotate.d/nginx")
    wait_for(lambda: monitor.query(query)[0][1] == before + 40, 30, "40 requests are counted")
    assert monitor.query(count)[0][1] == total + 40


def test_nobody_but_the_monitor_reads_the_metrics(machine: Machine, monitor: Monitor, address: str) -> None:
    for port in (9998, 9100, 9113, 9114, 9187):
        assert not machine.accepts(port), port
    outside = Machine("monitor13", monitor.host, {}, Web(address, 9090))
    for port in (9090, 9093, 9094, 9100, 9998):
        assert not outside.accepts(port), port
    own = machine.web.address
    refused = monitor.host.run(f"python3 -c 'import ssl, socket; c = ssl._create_unverified_context(); "
                               f"s = c.wrap_socket(socket.create_connection((\"{own}\", 9998), 5)); "
                               "s.send(b\"GET / HTTP/1.0\\r\\n\\r\\n\"); print(s.recv(99))'")  # fmt: skip
    assert "certificate required" in refused.stderr.lower() or "bad certificate" in refused.stderr.lower(), refused
    with machine.host.sudo():
        assert machine.host.check_output("stat -c '%U %G %a' /etc/metrics/server.key") == "root prometheus 640"
        assert machine.host.check_output("stat -c '%a' /run/metrics") == "750"


def test_the_exporters_need_little_memory_and_run_without_rights(root: Root) -> None:
    units = root("systemctl list-units --plain --no-legend 'prometheus-*' | cut -d' ' -f1").split()
    assert len(units) >= 3
    total = 0
    for unit in units:
        pid = root(f"systemctl show --property=MainPID --value {unit}").strip()
        status = dict(line.split(":", 1) for line in root(f"cat /proc/{pid}/status").splitlines())
        total += int(status["RssAnon"].split()[0])
        assert status["CapEff"].strip() == "0" * 16
        assert status["Uid"].split()[0] != "0"
    assert total < 60 * 1024


def test_a_second_run_changes_nothing_and_check_mode_agrees(machine: Machine, play: Play) -> None:
    if machine.name != "web13":
        pytest.skip("once: all hosts are part of the run")
    for options in ([], ["--check", "--diff"]):
        run = play("site", *options, limit="all")
        assert run.code == 0, run.output
        assert [run.recap(name)["changed"] for name in HOSTS] == [0, 0, 0], run.output


def test_a_run_without_the_monitor_says_that_it_changes_no_metrics(play: Play, machine: Machine) -> None:
    run = play("site")
    assert run.code == 0, run.output
    assert f"The metrics of {machine.name} were not set up" in run.output


# --- alerts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alert", CAUSES)
def test_an_alert_is_sent_when_it_is_caused_and_when_it_is_over(
    machine: Machine, monitor: Monitor, address: str, root: Root, alert: str
) -> None:
    if machine.name == "web12" and alert not in ("AppDown", "DiskFull", "NginxDown"):
        pytest.skip("it does not depend on the version of Debian")
    cause, end = (
        command.replace("LIVE", machine.live("echo")).replace("MONITOR", address) for command in CAUSES[alert]
    )
    wait_for(lambda: not monitor.firing(alert, machine.name), OVER, "the alert does not fire yet")
    monitor.forget()
    root(cause)
    try:
        wait_until_found(monitor, alert, machine)
    finally:
        root(end)
    wait_until_over(monitor, alert, machine)


def test_requests_that_fail_are_an_alert(machine: Machine, monitor: Monitor, shown: Web) -> None:
    monitor.forget()

    def ask() -> bool:
        for number in range(10):
            assert shown.ask("/slow?seconds=x" if number == 0 else "/").status == (500 if number == 0 else 200)
        time.sleep(0.5)
        return bool(monitor.firing("AppErrors", machine.name))

    wait_for(ask, FOUND, "AppErrors fires")
    wait_for(lambda: "firing" in monitor.received("AppErrors", machine.name), FOUND, "AppErrors is received")
    wait_until_over(monitor, "AppErrors", machine)


def test_postgresql_that_is_stopped_is_an_alert(machine: Machine, monitor: Monitor, root: Root) -> None:
    if machine.name != "web13":
        pytest.skip("it has no database")
    monitor.forget()
    root("systemctl stop postgresql")
    try:
        wait_until_found(monitor, "PostgresqlDown", machine)
    finally:
        root("systemctl start postgresql")
    wait_until_over(monitor, "PostgresqlDown", machine)


def test_a_deploy_that_failed_is_an_alert_until_one_succeeds(
    machine: Machine, monitor: Monitor, play: Play, changed_app: Callable[..., list[str]]
) -> None:
    monitor.forget()
    failed = play("deploy", "-e", "app=echo", *changed_app("echo", release_command="false"))
    assert failed.code != 0, failed.output
    wait_until_found(monitor, "DeployFailed", machine)
    good = play("deploy", "-e", "app=echo", "-e", "rebuild=true")
    assert good.code == 0, good.output
    wait_until_over(monitor, "DeployFailed", machine)


def test_a_webhook_that_is_down_gets_the_alert_later(machine: Machine, monitor: Monitor, root: Root) -> None:
    monitor.forget()
    monitor.host.run_expect([0], "systemctl stop alert-receiver")
    root("systemd-run --unit=broken --service-type=oneshot false || true")
    try:
        sent = "AlertsNotSent"
        wait_for(lambda: monitor.firing(sent, "monitor13"), FOUND, "the monitor knows that it could not send")
        monitor.host.run_expect([0], "systemctl start alert-receiver")
        wait_for(lambda: "firing" in monitor.received("UnitFailed", machine.name), OVER, "the alert is received")
    finally:
        monitor.host.run("systemctl start alert-receiver")
        root("systemctl reset-failed broken.service")
    wait_for(lambda: not monitor.firing("UnitFailed", machine.name), OVER, "UnitFailed is over")
