"""The report of a backup or a drill that the playbook has started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.modules import backup_run
from modules import call


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


@pytest.mark.parametrize(
    ("status", "kept", "options", "starts"),
    [
        ({}, "[]", {"only_first": True}, True),
        ({}, '[{"app": "shop"}]', {"only_first": True}, False),  # a new host in place of a lost one
        ({}, '[{"app": "shop"}]', {"only_first": True, "new_archive": True}, False),
        ({}, "The target store has no repository.", {"only_first": True}, True),
        ({}, "The target store does not answer.", {"only_first": True}, False),  # it may have some
        ({"shop": {}}, '[{"app": "shop"}]', {"only_first": True}, False),
        ({"shop": {}}, '[{"app": "shop"}]', {"only_first": True, "new_archive": True}, True),
        ({"shop": {}}, '[{"app": "shop"}]', {}, True),
    ],
)
def test_a_new_host_in_place_of_a_lost_one_adds_no_backup_of_its_empty_apps(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: dict[str, Any],
    kept: str,
    options: dict[str, Any],
    starts: bool,
) -> None:
    """The first backup is made at the first run on a host; a restore takes the newest one."""
    (tmp_path / "settings.json").write_text('{"targets": [{"name": "new"}, {"name": "store"}]}')
    (tmp_path / "backup").write_text(
        f"#!/bin/sh\n[ \"$*\" != 'list --target new --json' ] || exec echo '[]'\n"
        f"case '{kept}' in The*) echo '{kept}' >&2; exit 1;; esac\n"
        f"[ \"$*\" = 'list --target store --json' ] && echo '{kept}'\n"
    )
    (tmp_path / "systemctl").write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/started\n')
    for program in ("backup", "systemctl"):
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(backup_run, "PROGRAM", str(tmp_path / "backup"))
    monkeypatch.setattr(backup_run, "SETTINGS", tmp_path / "settings.json")
    monkeypatch.setattr(backup_run, "read_status", lambda: {"backups": status, "drills": {}})
    result = call(backup_run, **options)
    assert (result["changed"], "does not answer" in str(result["problems"])) == (starts, "does not answer" in kept)
    assert (tmp_path / "started").exists() == starts
