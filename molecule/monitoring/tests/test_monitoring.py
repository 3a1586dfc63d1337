"""Metrics of two webservers on a monitor, and its alerts: each is caused, sent once, and over when its cause is."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage

import pytest
from monitoring.monitor import Monitor
from receiving import received_mails
from testinfra.host import Host
from testing import Machine, Run, Web, wait_for

testinfra_hosts = ["ansible://webservers"]
Play = Callable[..., Run]
Root = Callable[[str], str]
HOSTS = ["web12", "web13", "monitor13"]
FOUND, OVER = 180, 240  # seconds; on a busy test machine
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
    "AppProcessDown": (
        "systemctl stop echo.idle.1@LIVE.service",
        "systemctl start echo.idle.1@LIVE.service",
    ),
    "AppDies": (
        "main=$(systemctl show --property=MainPID --value echo@LIVE.service) && "
        "kill -9 $(cut -d' ' -f1 /proc/$main/task/$main/children)",
        "systemctl restart echo@LIVE.service",  # deaths before a restart do not count
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
# Metrics of a clock that is two minutes ahead, as node exporter offers them: all test machines share one clock.
AHEAD = """
import http.server, time

class Exporter(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        now = time.time() + 120
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(f"node_time_seconds {now}\\nhost_measured_timestamp_seconds {now}\\n".encode())

http.server.HTTPServer(("127.0.0.1", 9100), Exporter).serve_forever()
"""
CAUSES["ClockOff"] = (
    f"systemctl stop prometheus-node-exporter && cat >/run/ahead.py <<'END'\n{AHEAD}END\n"
    "systemd-run --unit=ahead --collect python3 /run/ahead.py",
    "systemctl stop ahead; systemctl start prometheus-node-exporter",
)
STORE = "/var/lib/prometheus"
# Alerts that are caused at the same time, as none affects another, and their host. DiskFull begins last and ends first:
# no other command finds /tmp full.
AT_ONCE = [
    ("web12", ["AppDown", "NginxDown", "DiskFull"]),
    ("web13", ["AppDown", "UnitFailed", "CertificateExpires", "BackupBad", "MetricsMissing", "DiskFull"]),
    ("web13", ["NginxDown", "AppDies", "AppProcessDown"]),
    ("web13", ["HostGone"]),
    ("web12", ["ClockOff"]),
]


@pytest.fixture
def address(monitor: Monitor) -> str:
    """The address of the monitor."""
    return str(monitor.host.ansible.get_variables()["ansible_host"])


def wait_until_none(left: Callable[[], set[str]], seconds: float, why: str) -> None:
    """Wait until no alert is left; the error names those that are."""
    seen: set[str] = set()

    def is_none_left() -> bool:
        seen.clear()
        seen.update(left())
        return not seen

    try:
        wait_for(is_none_left, seconds, why)
    except AssertionError as error:
        raise AssertionError(f"{error}. Left: {', '.join(sorted(seen))}") from error


def forget_and_expect_none(monitor: Monitor, machine: Machine, *alerts: str) -> None:
    """Wait until the alerts about the machine, of an earlier test, are over; forget what the receiver got."""
    name = machine.name
    wait_until_none(lambda: monitor.firing(name) & {*alerts}, OVER, "no alert fires yet")
    wait_until_none(lambda: monitor.received_with("firing", name) & {*alerts}, OVER, "earlier ends were received")
    monitor.forget()


def wait_until_found(monitor: Monitor, machine: Machine, *alerts: str) -> None:
    """Wait until the alerts about the machine fire, and the receiver has got them."""
    name = machine.name
    wait_until_none(lambda: {*alerts} - monitor.firing(name), FOUND, "all alerts fire")
    wait_until_none(lambda: {*alerts} - {*monitor.received(name)}, FOUND, "all alerts are received")


def wait_until_over(monitor: Monitor, machine: Machine, *alerts: str) -> None:
    """Wait until the alerts about the machine are over, and the receiver knows; it got each message once, with what to
    do."""
    name = machine.name
    wait_until_none(lambda: monitor.firing(name) & {*alerts}, OVER, "all alerts are over")
    wait_until_none(lambda: {*alerts} - monitor.received_with("resolved", name), OVER, "all ends are received")
    received = monitor.received(name)
    for alert in alerts:
        assert [message["status"] for message in received[alert]] == ["firing", "resolved"], alert
        assert all(message["annotations"]["todo"] for message in received[alert]), alert


# --- metrics ----------------------------------------------------------------------------------------------------------


@pytest.mark.on("web12")  # once: for all hosts
@pytest.mark.usefixtures("machine")
def test_the_monitor_reads_all_hosts(monitor: Monitor) -> None:
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
    wait_for(lambda: monitor.query(query)[0][1] == before + 40, 60, "40 requests are counted")
    assert monitor.query(count)[0][1] == total + 40


def test_only_the_monitor_can_read_the_metrics(machine: Machine, monitor: Monitor, address: str) -> None:
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


@pytest.mark.on("web13")  # once: all hosts are part of the run
def test_check_mode_reports_no_change_on_provisioned_hosts(play: Play) -> None:
    run = play("site", "--check", "--diff", limit="all")
    assert run.code == 0, run.output
    assert [run.recap(name)["changed"] for name in HOSTS] == [0, 0, 0], run.output


@pytest.mark.on("web12")
def test_a_run_without_the_monitor_reports_that_it_changes_no_metrics(play: Play, machine: Machine) -> None:
    run = play("site")
    assert run.code == 0, run.output
    assert f"The metrics of {machine.name} were not set up" in run.output


# --- alerts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "alerts",
    [pytest.param(alerts, marks=pytest.mark.on(host), id=", ".join(alerts)) for host, alerts in AT_ONCE],
)
def test_each_alert_is_sent_once_when_it_is_caused_and_once_when_it_is_over(
    machine: Machine, monitor: Monitor, address: str, root: Root, alerts: list[str]
) -> None:
    forget_and_expect_none(monitor, machine, *alerts)
    with contextlib.ExitStack() as stack:
        for alert in alerts:
            cause, end = (
                command.replace("LIVE", machine.live("echo")).replace("MONITOR", address) for command in CAUSES[alert]
            )
            root(cause)
            stack.callback(root, end)
        wait_until_found(monitor, machine, *alerts)
    wait_until_over(monitor, machine, *alerts)


@pytest.mark.on("web13")
def test_requests_that_fail_are_an_alert(machine: Machine, monitor: Monitor, shown: Web) -> None:
    forget_and_expect_none(monitor, machine, "AppErrors")

    def ask() -> bool:
        for number in range(10):
            assert shown.ask("/slow?seconds=x" if number < 3 else "/").status == (500 if number < 3 else 200)
        return "AppErrors" in monitor.firing(machine.name)

    wait_for(ask, FOUND, "AppErrors fires")
    wait_until_found(monitor, machine, "AppErrors")
    wait_until_over(monitor, machine, "AppErrors")


@pytest.mark.on("web13")
def test_requests_that_take_long_are_an_alert(machine: Machine, monitor: Monitor, shown: Web) -> None:
    forget_and_expect_none(monitor, machine, "AppSlow")

    def ask() -> bool:
        with ThreadPoolExecutor(12) as clients:
            answers = list(clients.map(shown.ask, ["/slow?seconds=1"] * 24))
        assert {answer.status for answer in answers} == {200}
        return "AppSlow" in monitor.firing(machine.name)

    wait_for(ask, FOUND, "AppSlow fires")
    wait_until_found(monitor, machine, "AppSlow")
    wait_until_over(monitor, machine, "AppSlow")


@pytest.mark.on("web13")  # web12 has no database
def test_postgresql_that_is_stopped_is_an_alert_also_by_mail(machine: Machine, monitor: Monitor, root: Root) -> None:
    forget_and_expect_none(monitor, machine, "PostgresqlDown")
    root("systemctl stop postgresql")
    try:
        wait_until_found(monitor, machine, "PostgresqlDown")
    finally:
        root("systemctl start postgresql")
    wait_until_over(monitor, machine, "PostgresqlDown")
    summary = monitor.received(machine.name)["PostgresqlDown"][0]["annotations"]["summary"]

    def mails() -> list[EmailMessage]:
        return [mail for mail in received_mails(monitor.host) if summary in str(mail["Subject"])]

    wait_for(lambda: len(mails()) >= 2, 60, "a mail of its begin and one of its end are received")
    assert [mail["Subject"] for mail in mails()] == [summary, f"resolved: {summary}"]
    assert {mail["To"] for mail in mails()} == {"ops@site.example"}
    body = mails()[0].get_body(("plain",))
    assert body
    assert "systemctl status 'postgresql@*'" in body.get_content()


@pytest.mark.on("web13")
def test_a_deploy_that_failed_is_an_alert_until_one_succeeds(
    machine: Machine, monitor: Monitor, play: Play, changed_app: Callable[..., list[str]]
) -> None:
    forget_and_expect_none(monitor, machine, "DeployFailed")
    failed = play("deploy", "-e", "app=echo", *changed_app("echo", release_command="false"))
    try:
        assert failed.code != 0, failed.output
        wait_until_found(monitor, machine, "DeployFailed")
    finally:
        good = play("deploy", "-e", "app=echo", "-e", "rebuild=true")
    assert good.code == 0, good.output
    wait_until_over(monitor, machine, "DeployFailed")


@pytest.mark.on("web13")
def test_a_webhook_that_is_down_gets_the_alert_later(machine: Machine, monitor: Monitor, root: Root) -> None:
    forget_and_expect_none(monitor, machine, "UnitFailed")
    monitor.host.run_expect([0], "systemctl stop alert-receiver")
    root("systemd-run --unit=broken --service-type=oneshot false || true")
    try:
        wait_until_none(
            lambda: {"AlertsNotSent"} - monitor.firing("monitor13"), FOUND, "the monitor knows that it could not send"
        )
        monitor.host.run_expect([0], "systemctl start alert-receiver")
        wait_for(lambda: "UnitFailed" in monitor.received(machine.name), OVER, "the alert is received")
        wait_until_none(lambda: monitor.firing("monitor13") & {"AlertsNotSent"}, OVER, "alerts are sent again")
    finally:
        monitor.host.run("systemctl start alert-receiver")
        root("systemctl reset-failed broken.service")
    wait_for(lambda: "UnitFailed" not in monitor.firing(machine.name), OVER, "UnitFailed is over")


def write_history(host: Host, labels: dict[str, str], *, from_bytes: int, to_bytes: int) -> None:
    """Write the free bytes of a disk in the last four hours, a sample each minute, to the empty store of Prometheus."""
    name, now, minutes = labels["__name__"], int(time.time()), 240
    shown = ",".join(f'{key}="{value}"' for key, value in labels.items() if key != "__name__")
    lines = [f"# TYPE {name} gauge"]
    for minute in range(minutes):
        free = from_bytes + (to_bytes - from_bytes) * minute // minutes
        lines.append(f"{name}{{{shown}}} {free} {now - 60 * (minutes - minute)}")
    text = "\n".join([*lines, "# EOF"])
    work = "/var/tmp/history"  # promtool needs more space than the store has
    host.run_expect([0], f"install -d -o prometheus {work} && cat >{work}/text <<'END'\n{text}\nEND")
    create = f"env TMPDIR={work} promtool tsdb create-blocks-from openmetrics {work}/text {work}/blocks"
    host.run_expect([0], f"runuser -u prometheus -- {create} && cp -a {work}/blocks {STORE}/metrics2 && rm -r {work}")


@pytest.mark.on("web12")  # once: it is about the monitor
@pytest.mark.usefixtures("machine")
def test_a_disk_of_the_monitor_that_fills_up_or_is_full_is_an_alert_and_needs_no_restart(monitor: Monitor) -> None:
    """DiskFillsUp needs hours of history: promtool writes four hours, in which the disk has lost 2 GB."""
    name, host = "monitor13", monitor.host
    services = "prometheus prometheus-alertmanager"
    disk_full = f'ALERTS{{alertname="DiskFull",alertstate="firing",host="{name}",mount="{STORE}"}}'
    fills_up = disk_full.replace("DiskFull", "DiskFillsUp")
    measured = f'host_disk_free_bytes{{host="{name}",mount="/"}}'
    ((labels, _),) = wait_for(lambda: monitor.query(measured), FOUND, "the monitor has its own metrics")
    monitor.forget()
    host.run_expect([0], f"systemctl stop {services}")
    try:
        host.run_expect([0], f"mount -t tmpfs -o size=64m,mode=0755 tmpfs {STORE} && chown prometheus: {STORE}")
        write_history(host, labels | {"mount": STORE}, from_bytes=2_000_000_000, to_bytes=64_000_000)
        host.run_expect([0], f"systemctl start {services}")
        wait_for(lambda: host.socket("tcp://127.0.0.1:9090").is_listening, 60, "Prometheus listens")
        wait_for(lambda: host.socket("tcp://127.0.0.1:9093").is_listening, 60, "Alertmanager listens")
        wait_for(lambda: monitor.query(fills_up), FOUND, "a disk that will be full within a day is an alert")
        assert not monitor.query(disk_full)
        wait_for(lambda: "DiskFillsUp" in monitor.received(name), FOUND, "it is received")
        free = int(host.check_output(f"df --output=avail --block-size=1K {STORE}").split()[-1])
        host.run_expect([0], f"fallocate -l {free - 3000}k {STORE}/full")
        wait_for(lambda: monitor.query(disk_full), FOUND, "a disk that is nearly full is an alert")
        wait_for(lambda: not monitor.query(fills_up), FOUND, "it replaces the one about the trend")
        host.run(f"dd if=/dev/zero of={STORE}/rest bs=4k")  # until there is no space
        wait_for(lambda: "MetricsNotStored" in monitor.firing(name), FOUND, "a full disk is an alert")
        wait_for(lambda: "MetricsNotStored" in monitor.received(name), FOUND, "it is received")
        host.run_expect([0], f"rm {STORE}/full {STORE}/rest")
        wait_for(lambda: "MetricsNotStored" not in monitor.firing(name), OVER, "the alert is over")
        wait_for(lambda: "MetricsNotStored" in monitor.received_with("resolved", name), OVER, "its end is received")
        wait_for(lambda: monitor.query('up{job="node"} == 1'), 60, "metrics are stored again")
    finally:
        host.run(f"systemctl stop {services}; umount {STORE}")
        host.run_expect([0], f"systemctl start {services}")
        wait_for(lambda: host.socket("tcp://127.0.0.1:9093").is_listening, 60, "Alertmanager listens again")
