"""The report of a backup or a drill that the playbook has started."""

from __future__ import annotations

from ansible_collections.blueoctopus.site.plugins.modules import backup_run


def test_results_since_the_start_are_shown() -> None:
    entry = {"time": 100, "size": 2048, "added": 10, "seconds": 1.5, "error": ""}
    status = {
        "backups": {
            "shop": {"store": entry, "cloud": entry | {"error": "down", "failed": 100}},
            "old": {"store": entry | {"time": 1}},
        }
    }
    lines, problems = backup_run.backup_lines(status, 100)
    assert lines == ["shop to store: 2.0 KiB, 10 B new, 1.5 s"]
    assert problems == ["shop to cloud: down"]
    drills = {"drills": {"shop": {"time": 100, "target": "store", "error": "", "rows": 3, "size": 5, "seconds": 2}}}
    assert backup_run.drill_lines(drills, 100) == (["shop from store: 3 rows, 5 B, 2 s"], [])
    drills["drills"]["shop"]["note"] = "not loaded"
    assert backup_run.drill_lines(drills, 100)[0][1] == "  not loaded"
