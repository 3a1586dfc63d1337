"""What is a problem of an app or a host."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import checks
from status_examples import APP, DISK, NOW, REQUESTS, V1, backup, host, replication


def kinds(*apps: dict[str, Any], **changes: Any) -> list[str]:
    return [entry["kind"] for entry in host(*apps, **changes)["problems"]]


def test_a_healthy_host_has_no_problem() -> None:
    assert kinds() == []


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        ({"state": "failed"}, "down"),
        ({"state": "failed", "died_recently": ["shop@x.service"]}, "down"),
        ({"workers": 0}, "down"),
        ({"died_recently": ["shop@x.service"]}, "dying"),
        ({"died": ["1 worker of shop@x.service"]}, None),
        ({"processes": {"mail.1": "restarting"}}, "process"),
        ({"live": "", "state": "absent"}, "absent"),
        ({"live": "", "state": "absent", "in_inventory": False}, None),
        ({"unfinished": True}, "unfinished"),
        ({"unfinished": True, "locked_by": {"by": "somebody@laptop"}}, None),
        ({"requests": {**REQUESTS, "errors": 5}}, "errors"),
        ({"requests": {**REQUESTS, "errors": 4}}, None),
        ({"requests": {**REQUESTS, "requests": 10000, "errors": 400}}, None),
        ({"requests": {**REQUESTS, "errors": 100}, "in_maintenance": True}, None),
        ({"certificate": {**APP["certificate"], "days_left": 9}}, "certificate"),
        ({"certificate": {**APP["certificate"], "days_left": -1}}, "certificate"),
        ({"certificate": {**APP["certificate"], "is_there": False}}, "certificate"),
        ({"certificate": {**APP["certificate"], "problem": "the authority is busy"}}, None),
        ({"certificate": None}, None),
    ],
)
def test_problems_of_an_app(app: dict[str, Any], expected: str | None) -> None:
    assert kinds(app) == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"disks": [{**DISK, "percent": 90, "inodes_percent": 7}]}, "disk"),
        ({"disks": [{**DISK, "inodes_percent": 95}]}, "disk"),
        ({"failed_units": ["logrotate.service"]}, "unit"),
        ({"backup": None}, None),
        ({"backup": backup(("shop", "backup to store", "no space"))}, "backup"),
        ({"backup": backup(last_backup=None)}, "backup"),
        ({"reboot_needed": True}, None),
        ({"updates": None}, None),
        ({"alerts": {"delivery": {"failing_since": "2026-01-02T03:00:00Z", "error": "refused"}}}, "delivery"),
        ({"alerts": {"delivery": {"failing_since": "2026-01-02T03:08:00Z", "error": "refused"}}}, None),
        ({"alerts": {"checked": "2026-01-02T03:09:00Z", "delivery": {}}}, None),
        ({"alerts": {"checked": "2026-01-02T02:00:00Z", "delivery": {}}}, "delivery"),
    ],
)
def test_problems_of_a_host(changes: dict[str, Any], expected: str | None) -> None:
    assert kinds(**changes) == ([expected] if expected else [])


DISCONNECTED = {"name": "standby_db2", "state": "not connected", "lag_bytes": 5}


@pytest.mark.parametrize(
    ("found", "subjects"),
    [
        (replication(), []),
        (replication("standby"), []),
        (replication(standbys=[{**DISCONNECTED, "state": "catchup"}]), []),
        (replication(standbys=[DISCONNECTED, {**DISCONNECTED, "name": "standby_db3"}]), ["standby_db2", "standby_db3"]),
        (replication("standby", lag_seconds=60), []),
        (replication("standby", lag_seconds=61), ["lag"]),
        (replication("standby", lag_seconds=61, connected=False), ["primary"]),
        (replication("standby", lag_seconds=None, connected=False), ["primary"]),
        (replication("fenced"), ["fenced"]),
        (replication("fenced", problem="still runs"), ["fenced", "server"]),
        (replication(standbys=[], problem="does not answer"), ["server"]),
    ],
)
def test_problems_of_the_replication(found: dict[str, Any], subjects: list[str]) -> None:
    problems = host(replication=found)["problems"]
    assert [(entry["kind"], entry["app"], entry["subject"]) for entry in problems] == [
        ("replication", "", subject) for subject in subjects
    ]


def test_a_service_that_restarts_again_and_again_is_the_same_problem_in_each_check() -> None:
    died = {"died_recently": [f"shop@{V1}.service"]}
    for state in ("restarting", "active"):
        found = host({"state": state, **died})["problems"]
        assert ("dying", f"shop@{V1}.service") in [(entry["kind"], entry["subject"]) for entry in found]


def test_the_failed_unit_of_an_app_that_is_down_is_one_problem() -> None:
    found = host({"state": "failed"}, failed_units=[f"shop@{V1}.service", "shopping.service"])["problems"]
    assert [entry["kind"] for entry in found] == ["down", "unit"]
    assert found[1]["subject"] == "shopping.service"


def samples(used: list[float], step: float = 3600) -> list[dict[str, Any]]:
    return [{"time": NOW - step * (len(used) - n), "disks": {"/": value}} for n, value in enumerate(used)]


def test_a_disk_that_will_be_full_within_a_day_is_a_problem() -> None:
    growing = {"delivery": {}, "samples": samples([10**9 * n for n in range(1, 5)])}
    (found,) = host(alerts=growing)["problems"]
    assert found["text"] == "the disk / will be full in 6 h if it grows as before"
    slow = {"delivery": {}, "samples": samples([10**8 * n for n in range(1, 5)])}
    assert host(alerts=slow)["problems"] == []
    short = {"delivery": {}, "samples": samples([10**9 * n for n in range(1, 5)], 600)}
    assert host(alerts=short)["problems"] == []
    assert checks.trend([], "/") is None


def test_the_text_of_a_problem_has_nothing_of_the_log_of_the_app() -> None:
    (found,) = host({"state": "failed", "cause": "KeyError: 'squid-ink'"})["problems"]
    assert "squid" not in found["text"]
    assert found["log"] == "KeyError: 'squid-ink'"


def test_each_problem_of_backups_is_separate_and_names_its_app() -> None:
    failed = (("shop", "backup to store", "no space"), ("shop", "drill", "no rows"), ("", "check of store", "damaged"))
    found = host(backup=backup(*failed))["problems"]
    assert [(entry["app"], entry["subject"], entry["text"]) for entry in found] == [
        ("shop", "backup to store", "backup: no space"),
        ("shop", "drill", "backup: no rows"),
        ("", "check of store", "backup: damaged"),
    ]
    assert {entry["kind"] for entry in found} == {"backup"}


def test_a_host_without_any_backup_has_that_problem_also_while_backups_fail() -> None:
    found = host(backup=backup(("shop", "backup to store", "no space"), last_backup=None))["problems"]
    assert [entry["text"] for entry in found] == ["backup: no space", "backup: none was made so far"]
