"""The monitor: its configuration as Prometheus and Alertmanager read it, each alert on series, the inventory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from alert_rules import MEASURED, SEEN, SHOP, STORED, TIME, UP, check_rules, firing, run
from ansible_collections.blueoctopus.site.plugins.filter.monitoring import (
    monitor_addresses,
    monitor_targets,
)
from ansible_collections.blueoctopus.site.plugins.module_utils import checks
from ansible_collections.blueoctopus.site.plugins.plugin_utils.monitoring import find_monitor_problems, metrics_hosts

PROJECT = Path(__file__).resolve().parent.parent
GRAFANA = sorted((PROJECT / "docs/grafana").glob("*.json"))
Render = Callable[..., str]
APP = {"name": "shop", "domains": ["shop.example"], "source": "app", "wsgi": "main:app"}
GROUPS = {"webservers": ["web1", "web2"], "databases": ["db1"], "monitors": ["mon1"]}
HOSTS: dict[str, dict[str, Any]] = {
    "web1": {"ansible_host": "192.0.2.1", "apps": [APP | {"postgresql": True}]},
    "web2": {"ansible_host": "192.0.2.2", "apps": [APP], "metrics_address": "10.0.0.2", "metrics_port": 9000},
    "db1": {"ansible_host": "fd00::3"},
    "mon1": {"ansible_host": "192.0.2.9", "alert_mail": ["ops@x.example"]},
}


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.needs("promtool")
def test_prometheus_accepts_its_configuration(render: Render, tmp_path: Path) -> None:
    for name in ("client.pem", "client.key"):
        (tmp_path / "tls").mkdir(exist_ok=True)
        (tmp_path / "tls" / name).touch()
    targets = monitor_targets(HOSTS, GROUPS, "mon1", {})
    values = {"monitor_targets": targets, "monitor_host": "mon1", "__monitor_folder": str(tmp_path)}
    for name in ("prometheus.yml", "rules.yml"):
        (tmp_path / name).write_text(render("monitor", f"{name}.j2", **values))
    run("promtool", "check", "config", tmp_path / "prometheus.yml")
    found = yaml.safe_load((tmp_path / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in found["scrape_configs"]}
    assert set(jobs) == {
        "prometheus", "alertmanager", "node web1", "nginx web1", "node web2", "nginx web2", "node db1", "postgres db1",
        "node mon1",
    }  # fmt: skip
    assert jobs["node db1"]["static_configs"][0]["targets"] == ["[fd00::3]:9998"]
    assert jobs["nginx web2"]["static_configs"][0]["targets"] == ["10.0.0.2:9000"]
    assert jobs["node mon1"]["static_configs"][0]["targets"] == ["127.0.0.1:9998"]
    for name, job in jobs.items():
        if " " in name:
            assert job["scheme"] == "https"
            assert job["tls_config"]["ca_file"].endswith(f"/hosts/{name.split()[1]}.pem")
            assert "insecure_skip_verify" not in job["tls_config"]


MAIL = {"mail": ["a@x.example", "b@x.example"], "smtp_host": "smtp.example"}
LOGIN = {"smtp_user": "u", "smtp_password": "p\"'{{ x }}\n"}


@pytest.mark.needs("amtool")
@pytest.mark.parametrize(
    "values",
    [{}, {"webhook": 'http://x.example/"hook'}, MAIL, MAIL | LOGIN | {"webhook": "https://x.example/"}],
    ids=["no receiver", "webhook", "mail", "both"],
)
def test_alertmanager_accepts_its_configuration(render: Render, tmp_path: Path, values: dict[str, Any]) -> None:
    path = tmp_path / "alertmanager.yml"
    path.write_text(render("monitor", "alertmanager.yml.j2", monitor_receivers=values))
    run("amtool", "check-config", path)
    receiver = yaml.safe_load(path.read_text())["receivers"][0]
    assert [hook["url"] for hook in receiver.get("webhook_configs", [])] == [
        value for key, value in values.items() if key == "webhook"
    ]
    assert [mail["to"] for mail in receiver.get("email_configs", [])] == values.get("mail", [])
    for mail in receiver.get("email_configs", []):
        assert mail.get("auth_password") == values.get("smtp_password")


def matches(matchers: list[str], labels: dict[str, str]) -> bool:
    """Whether an alert with these labels matches all matchers of Alertmanager."""
    for matcher in matchers:
        found = re.fullmatch(r'(\w+)(=~|!~|!=|=)"(.*)"', matcher)
        assert found, matcher
        label, operator, value = found.groups()
        is_pattern, is_negated = "~" in operator, "!" in operator
        is_same = re.fullmatch(value if is_pattern else re.escape(value), labels.get(label, "")) is not None
        if is_same == is_negated:
            return False
    return True


@pytest.fixture
def muted(render: Render) -> Callable[[str, str, str, str], bool]:
    """A function that tells whether an alert of a host mutes another alert of a host."""
    rules = yaml.safe_load(render("monitor", "alertmanager.yml.j2", monitor_receivers={}))["inhibit_rules"]

    def is_muted(alert: str, host: str, by: str, by_host: str) -> bool:
        source, target = {"alertname": by, "host": by_host}, {"alertname": alert, "host": host}
        return any(
            matches(rule["source_matchers"], source)
            and matches(rule["target_matchers"], target)
            and all(source.get(label) == target.get(label) for label in rule.get("equal", []))
            for rule in rules
        )

    return is_muted


def test_an_alert_about_a_host_that_is_gone_replaces_its_others_except_those_about_alerts(
    muted: Callable[[str, str, str, str], bool],
) -> None:
    kept = {name for name in [*ALERTS, "DiskFillsUp"] if not muted(name, "mon1", "HostGone", "mon1")}
    assert kept == {"HostGone", "MetricsNotStored", "AlertsNotSent"}
    assert not any(muted(name, "web2", "HostGone", "web1") for name in ALERTS)


def test_without_new_metrics_only_the_alert_about_them_is_sent(muted: Callable[[str, str, str, str], bool]) -> None:
    assert {name for name in ALERTS if not muted(name, "web1", "MetricsNotStored", "mon1")} == {"MetricsNotStored"}


def test_no_two_alerts_mute_each_other(muted: Callable[[str, str, str, str], bool]) -> None:
    pairs = [(one, other) for one in ALERTS for other in ALERTS]
    assert [p for p in pairs if muted(p[0], "mon1", p[1], "mon1") and muted(p[1], "mon1", p[0], "mon1")] == []


def test_the_services_listen_on_localhost_alone(render: Render) -> None:
    for text in yaml.safe_load(render("monitor", "services.yml.j2")).values():
        assert "--web.listen-address=127.0.0.1:" in text
        assert "--cluster.listen-address= " in f"{text} ".replace("\n", " ") or "alertmanager" not in text


def test_the_limits_are_those_of_the_status() -> None:
    limits = yaml.safe_load((PROJECT / "roles/monitor/vars/main.yml").read_text())
    assert limits["__monitor_errors"] == 100 * checks.ERRORS_SHARE
    assert limits["__monitor_errors_least"] == checks.ERRORS_LEAST
    assert limits["__monitor_disk"] == checks.DISK_PERCENT
    assert limits["__monitor_queue"] == checks.QUEUE_PERCENT
    assert limits["__monitor_lag"] == checks.LAG_SECONDS
    assert limits["__monitor_certificate"] == checks.CERTIFICATE_DAYS


# --- alerts -----------------------------------------------------------------------------------------------------------

# Each alert: series that cause it for twenty minutes and end it then, and labels of the alert beside those of the host.
# A value is valid for 30 seconds.
DISK = 'host="web1",mount="/"'


def gauge(bad: float, good: float) -> str:
    """A value that is good for ten minutes, bad for twenty, and good again."""
    return f"{good}x19 {bad}x39 {good}x100"


ALERTS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "AppDown": ({f"app_up{{{SHOP}}}": gauge(0, 1)}, {"app": "shop"}),
    "AppDies": ({f"app_died_recently{{{SHOP}}}": gauge(1, 0)}, {"app": "shop"}),
    "AppProcessDown": (
        {f'app_process_up{{{SHOP},process="mail.1"}}': gauge(0, 1)},
        {"app": "shop", "process": "mail.1"},
    ),
    "AppErrors": (
        {
            f'app_requests_total{{{SHOP},release="1",status="2xx"}}': "0+95x200",
            f'app_requests_total{{{SHOP},release="1",status="5xx"}}': "0x19 0+6x39 234x100",
        },
        {"app": "shop"},
    ),
    "AppSlow": (
        {
            f'app_request_duration_seconds_bucket{{{SHOP},le="2"}}': "0+50x19 950x39 950+50x100",
            f'app_request_duration_seconds_bucket{{{SHOP},le="5"}}': "0+50x200",
            f'app_request_duration_seconds_bucket{{{SHOP},le="+Inf"}}': "0+50x200",
            f"app_request_duration_seconds_count{{{SHOP}}}": "0+50x200",
        },
        {"app": "shop"},
    ),
    "CertificateExpires": (
        {f"app_certificate_remaining_seconds{{{SHOP}}}": gauge(9 * 86400, 60 * 86400)},
        {"app": "shop"},
    ),
    "DeployFailed": (
        {
            f"app_last_deploy_success{{{SHOP}}}": gauge(0, 1),
            f"app_last_deploy_timestamp_seconds{{{SHOP}}}": "600x200",
        },
        {"app": "shop"},
    ),
    "HostGone": ({UP: gauge(0, 1)}, {}),
    "MetricsMissing": (SEEN | {'up{host="web1",job="nginx"}': gauge(0, 1)}, {"job": "nginx"}),
    "DiskFull": ({f"host_disk_percent{{{DISK}}}": gauge(90, 89)}, {"mount": "/"}),
    "BackupBad": ({'host_backup_good{host="web1"}': gauge(0, 1)}, {}),
    "LogsNotSent": ({'host_logs_sent{host="web1"}': gauge(0, 1)}, {}),
    "LogsQueueFills": ({'host_logs_queue_percent{host="web1"}': gauge(80, 79)}, {}),
    "UnitFailed": (
        {'host_unit_failed{host="web1",unit="x.service"}': "_x19 1x39 _x100"},
        {"unit": "x.service"},
    ),
    "NginxDown": ({'nginx_up{host="web1"}': gauge(0, 1)}, {}),
    "StandbyNotConnected": (
        {
            'host_replication_connected{host="web1",standby="standby_db2"}': gauge(0, 1),
            'host_replication_lag_seconds{host="web1"}': gauge(99, 0),
        },
        {"standby": "standby_db2"},
    ),
    "StandbyBehind": ({'host_replication_lag_seconds{host="web1"}': gauge(61, 60)}, {}),
    # A fenced server is stopped.
    "PostgresqlFenced": ({'host_replication_fenced{host="web1"}': gauge(1, 0), 'pg_up{host="web1"}': gauge(0, 1)}, {}),
    "PostgresqlDown": ({'pg_up{host="web1"}': gauge(0, 1)}, {}),
    # The host measures by its own clock.
    "ClockOff": (dict.fromkeys((TIME, MEASURED), "0+30x19 700+30x39 1800+30x100"), {}),
    "MetricsNotStored": ({STORED: "1x19 _x39 1x100"}, {"host": "monitor"}),
    "AlertsNotSent": (
        {'alertmanager_notifications_failed_total{host="web1",integration="email"}': "0x19 0+1x39 39x100"},
        {"integration": "email"},
    ),
}


def test_every_alert_has_a_test_a_solution_and_a_row_in_the_guide(render: Render) -> None:
    groups = yaml.safe_load(render("monitor", "rules.yml.j2"))["groups"]
    rules = {rule["alert"]: rule["annotations"] for group in groups for rule in group["rules"]}
    assert set(rules) == {*ALERTS, "DiskFillsUp"}
    guide = (PROJECT / "docs/monitoring.md").read_text()
    for name, texts in rules.items():
        assert texts["summary"].startswith("{{ $labels.host }}"), name
        assert texts["todo"].endswith("."), name
        assert f"| `{name}` |" in guide, name


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_while_there_is_the_problem_and_ends_with_it(render: Render, tmp_path: Path, alert: str) -> None:
    series, labels = ALERTS[alert]
    others = SEEN | series if alert != "HostGone" else {STORED: "1x200", MEASURED: "0+30x200"} | series
    expected = [firing(alert, "9m", None), firing(alert, "24m", labels), firing(alert, "40m", None)]
    expected += [firing(other, "24m", None) for other in ALERTS if other != alert]
    check_rules(tmp_path, render("monitor", "rules.yml.j2"), others, expected)


@pytest.mark.needs("promtool")
def test_a_disk_that_fills_up_within_a_day_is_an_alert_once_its_trend_is_known(render: Render, tmp_path: Path) -> None:
    free, full = f"host_disk_free_bytes{{{DISK}}}", f"host_disk_percent{{{DISK}}}"
    labels = {"mount": "/"}
    expected = [
        firing("DiskFillsUp", "2h", None),
        firing("DiskFillsUp", "4h", labels),
        firing("DiskFillsUp", "9h", None),
    ]
    # Four hours and a half of growth, then somebody deletes files.
    series = SEEN | {free: "1000000-1000x540 9000000x600", full: "50x1200"}
    check_rules(tmp_path, render("monitor", "rules.yml.j2"), series, expected)
    gone = SEEN | {free: "1000000-1000x540", full: "50x540"}
    expected = [firing("DiskFillsUp", "4h", labels), firing("DiskFillsUp", "5h", None)]
    check_rules(tmp_path, render("monitor", "rules.yml.j2"), gone, expected)
    steady = SEEN | {free: "1000000-100x1200", full: "50x1200"}
    check_rules(tmp_path, render("monitor", "rules.yml.j2"), steady, [firing("DiskFillsUp", "9h", None)])


@pytest.mark.needs("promtool")
def test_a_problem_that_lasts_shorter_than_the_patience_and_few_errors_are_no_alerts(
    render: Render, tmp_path: Path
) -> None:
    short = {f"app_up{{{SHOP}}}": "1x19 0x2 1x100"}
    few = {
        f'app_requests_total{{{SHOP},release="1",status="2xx"}}': "0+1x60",
        f'app_requests_total{{{SHOP},release="1",status="5xx"}}': "0x19 0+1x3 4x50",
    }
    expected = [firing(alert, f"{minutes}m", None) for alert in ("AppDown", "AppErrors") for minutes in range(9, 20)]
    check_rules(tmp_path, render("monitor", "rules.yml.j2"), SEEN | short | few, expected)


@pytest.mark.needs("promtool")
def test_metrics_that_are_old_or_absent_are_an_alert(render: Render, tmp_path: Path) -> None:
    old = {UP: "1x100", TIME: "0+30x100", MEASURED: "0+30x19 570x100"}
    check_rules(tmp_path, render("monitor", "rules.yml.j2"), old, [firing("MetricsMissing", "24m", {})])
    absent = [firing("MetricsMissing", "24m", {"job": "node"})]
    check_rules(tmp_path, render("monitor", "rules.yml.j2"), {UP: "1x100"}, absent)


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("begin", [-7200, 7200])
def test_old_metrics_are_an_alert_also_where_the_clock_is_off_and_new_ones_are_none(
    render: Render, tmp_path: Path, begin: int
) -> None:
    clock = {UP: "1x100", TIME: f"{begin}+30x100"}
    measured = clock | {MEASURED: f"{begin}+30x100"}
    check_rules(tmp_path, render("monitor", "rules.yml.j2"), measured, [firing("MetricsMissing", "24m", None)])
    old = clock | {MEASURED: f"{begin}+30x19 {begin + 570}x100"}
    check_rules(tmp_path, render("monitor", "rules.yml.j2"), old, [firing("MetricsMissing", "24m", {})])


@pytest.mark.needs("promtool")
@pytest.mark.parametrize(
    ("values", "is_gone", "missing"),
    [
        ({"node": 0}, True, []),
        ({"node": 0, "nginx": 0}, True, []),
        ({"node": 0, "prometheus": 1, "alertmanager": 1}, True, []),
        ({"node": 0, "nginx": 1}, False, ["node"]),
        ({"node": 0, "nginx": 0, "postgres": 1}, False, ["node", "nginx"]),
        ({"node": 1, "nginx": 0}, False, ["nginx"]),
        ({"node": 1, "prometheus": 1, "alertmanager": 0}, False, ["alertmanager"]),
    ],
)
def test_a_host_is_gone_if_no_exporter_answers_and_otherwise_misses_those_that_do_not(
    render: Render, tmp_path: Path, values: dict[str, int], is_gone: bool, missing: list[str]
) -> None:
    series = {f'up{{host="web1",job="{job}"}}': f"{value}x100" for job, value in values.items()}
    series |= {TIME: "0+30x100", MEASURED: "0+30x100"} if values["node"] else {}
    expected = [firing("HostGone", "24m", {} if is_gone else None)]
    expected += [firing("MetricsMissing", "24m", *({"job": job} for job in missing))]
    check_rules(tmp_path, render("monitor", "rules.yml.j2"), series, expected)


# --- dashboards -------------------------------------------------------------------------------------------------------


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("path", GRAFANA, ids=lambda path: path.name)
def test_prometheus_accepts_every_query_of_a_dashboard(path: Path, tmp_path: Path) -> None:
    board = json.loads(path.read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert len(queries) > 4
    plain = [query.replace("$__rate_interval", "5m").replace("$host", "web1").replace("$app", "x") for query in queries]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(plain)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    run("promtool", "check", "rules", "--lint=none", tmp_path / "rules.yml")
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


# --- the inventory ----------------------------------------------------------------------------------------------------


def problems(hostvars: dict[str, dict[str, Any]], groups: dict[str, list[str]]) -> list[str]:
    found = find_monitor_problems(list(hostvars), hostvars, groups)
    return [f"{host}, {problem.where}: {problem.found}" for host, problem in found]


def test_without_a_monitor_no_host_offers_metrics_and_no_firewall_opens() -> None:
    groups = {"webservers": ["web1"], "monitors": []}
    assert metrics_hosts(groups) == metrics_hosts({}) == []
    assert monitor_addresses(HOSTS, groups) == []
    assert problems(HOSTS, groups) == []


def test_the_firewalls_open_for_the_addresses_of_the_monitors() -> None:
    assert monitor_addresses(HOSTS, GROUPS) == ["192.0.2.9"]
    inside = HOSTS | {
        "mon1": HOSTS["mon1"] | {"ansible_host": "mon1.example", "monitor_client_addresses": ["10.0.0.9", "fd00::9"]}
    }
    assert monitor_addresses(inside, GROUPS) == ["10.0.0.9", "fd00::9"]
    assert problems(inside, GROUPS) == []


def test_a_monitor_whose_address_is_a_name_is_refused() -> None:
    found = problems(HOSTS | {"mon1": HOSTS["mon1"] | {"ansible_host": "mon1.example"}}, GROUPS)
    assert found == ["mon1, key monitor_client_addresses: nothing, and ansible_host is the name mon1.example"]


def test_a_monitor_without_webservers_is_refused() -> None:
    assert problems(HOSTS, {"monitors": ["mon1"]}) == ["mon1, group monitors: no host to monitor"]


def test_a_monitor_that_sends_its_alerts_to_nobody_is_refused_unless_that_is_set() -> None:
    nobody = HOSTS | {"mon1": {"ansible_host": "192.0.2.9"}}
    assert problems(nobody, GROUPS) == ["mon1, keys alert_webhook, alert_mail: nothing"]
    assert problems(nobody | {"mon1": nobody["mon1"] | {"monitor_sends_alerts": False}}, GROUPS) == []
    for receiver in ({"alert_webhook": "https://chat.example/"}, {"alert_mail": ["ops@x.example"]}):
        assert problems(nobody | {"mon1": nobody["mon1"] | receiver}, GROUPS) == []


def test_tls_from_the_start_on_another_port_than_465_is_refused() -> None:
    settings = HOSTS["mon1"] | {"alert_smtp_tls": "tls"}
    assert problems(HOSTS | {"mon1": settings}, GROUPS) == ["mon1, key alert_smtp_port: 587, with alert_smtp_tls: tls"]
    assert problems(HOSTS | {"mon1": settings | {"alert_smtp_port": 465}}, GROUPS) == []
    assert problems(HOSTS | {"mon1": HOSTS["mon1"] | {"alert_smtp_port": 465}}, GROUPS) == [
        "mon1, key alert_smtp_port: 465, with alert_smtp_tls: starttls"
    ]


def test_balancers_are_monitored_with_the_metrics_of_haproxy() -> None:
    groups, hosts = GROUPS | {"balancers": ["lb1"]}, HOSTS | {"lb1": {"ansible_host": "192.0.2.5"}}
    found = {target["name"]: target["exporters"] for target in monitor_targets(hosts, groups, "mon1", {})}
    assert found["lb1"] == ["node", "haproxy"]


def test_a_host_that_this_run_has_not_reached_is_a_target_without_a_certificate() -> None:
    found = {target["name"]: target["root"] for target in monitor_targets(HOSTS, GROUPS, "mon1", {"web1": "one"})}
    assert found == {"web1": "one", "web2": "", "db1": "", "mon1": ""}
