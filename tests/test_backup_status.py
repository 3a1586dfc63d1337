"""The results of backups: what is a problem, and the summary for the status."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import backup_status

HOUR = 3600
SETTINGS = {
    "apps": [{"name": "shop"}],
    "targets": [{"name": "store"}],
    "max_age": {"backup": 50, "check": 340, "drill": 340},
}


@pytest.mark.parametrize(
    ("backup", "target", "drill", "subject", "problem"),
    [
        ({"time": 999 * HOUR}, {"checked": 999 * HOUR}, {"time": 999 * HOUR}, "", ""),
        (
            {"time": 900 * HOUR},
            {"checked": 999 * HOUR},
            {"time": 999 * HOUR},
            "backup to store",
            "no backup on store for 50 hours",
        ),
        (
            {"time": 999 * HOUR, "error": "full\nmore"},
            {"checked": 999 * HOUR},
            {"time": 999 * HOUR},
            "backup to store",
            "store failed: full",
        ),
        (
            {"time": 999 * HOUR},
            {"checked": 1 * HOUR},
            {"time": 999 * HOUR},
            "check of store",
            "store was not checked for 340 hours",
        ),
        (
            {"time": 999 * HOUR},
            {"error": "damaged"},
            {"time": 999 * HOUR},
            "check of store",
            "the check of store failed: damaged",
        ),
        ({"time": 999 * HOUR}, {"checked": 999 * HOUR}, {"time": 9 * HOUR}, "drill", "restored a backup for 340 hours"),
        (
            {"time": 999 * HOUR},
            {"checked": 999 * HOUR},
            {"error": "no rows"},
            "drill",
            "the last drill failed: no rows",
        ),
    ],
)
def test_what_failed_or_is_too_old_is_a_problem(
    backup: dict[str, Any], target: dict[str, Any], drill: dict[str, Any], subject: str, problem: str
) -> None:
    status = {"backups": {"shop": {"store": backup}}, "targets": {"store": target}, "drills": {"shop": drill}}
    found = backup_status.summary(status | {"settings": SETTINGS | {"since": 0}}, 1000 * HOUR)
    assert found
    assert len(found["problems"]) == (1 if problem else 0)
    assert problem in found["problem"]
    assert [entry["subject"] for entry in found["problems"]] == ([subject] if problem else [])


def test_a_new_host_has_time_for_its_first_backup_and_an_unknown_app_is_a_problem() -> None:
    empty: dict[str, Any] = {"backups": {}, "targets": {}, "drills": {}}
    assert list(backup_status.find_problems("shop", SETTINGS, empty, 999 * HOUR, 1000 * HOUR)) == []
    _, text = next(backup_status.find_problems("new", SETTINGS, empty, 0, 1))
    assert "run playbooks/site.yml" in text


def test_the_status_of_a_host_shows_the_app_that_is_worst_off() -> None:
    assert backup_status.summary({}, 0) is None
    now = 1_767_322_800.0  # 2026-01-02 03:00
    status = {
        "settings": {
            "since": 0,
            "apps": [{"name": "shop"}, {"name": "blog"}],
            "targets": SETTINGS["targets"],
            "max_age": SETTINGS["max_age"],
        },
        "backups": {
            "shop": {"store": {"time": now - 7200, "size": 20, "error": ""}},
            "blog": {"store": {"time": now - 3600, "size": 2, "error": "No space left"}},
            "removed": {"store": {"time": 0, "size": 100, "error": "gone"}},
        },
        "targets": {"store": {"checked": now - 60, "error": ""}},
    }
    assert backup_status.summary(status, now) == {
        "last_backup": "2026-01-02T01:00:00Z",
        "last_check": "2026-01-02T02:59:00Z",
        "last_drill": None,
        "last_wal": None,
        "restorable_since": None,
        "size_bytes": 22,
        "problems": [
            {"app": app, "subject": subject, "text": text}
            for app, subject, text in (
                ("shop", "drill", "no drill has restored a backup for 340 hours"),
                ("blog", "backup to store", "the last backup to store failed: No space left"),
                ("blog", "drill", "no drill has restored a backup for 340 hours"),
            )
        ],
        # No drill has been made since the beginning.
        "problem": "shop: no drill has restored a backup for 340 hours; "
        "blog: the last backup to store failed: No space left; "
        "blog: no drill has restored a backup for 340 hours",
    }


def test_a_target_that_fails_its_check_is_one_problem_for_all_apps() -> None:
    settings = SETTINGS | {"since": 0, "apps": [{"name": "shop"}, {"name": "blog"}]}
    good = {"time": 999 * HOUR}
    status = {
        "settings": settings,
        "backups": {"shop": {"store": good}, "blog": {"store": good}},
        "targets": {"store": {"error": "damaged"}},
        "drills": {"shop": good, "blog": good},
    }
    found = backup_status.summary(status, 1000 * HOUR)
    assert found
    assert found["problems"] == [{"app": "", "subject": "check of store", "text": "the check of store failed: damaged"}]
    assert found["problem"] == "the check of store failed: damaged"
