"""The removal of a service that is no longer used: its units, its files, what an interrupted removal left."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.modules import service_removal
from modules import Programs, call

UNITS = ["alert.timer", "alert.service"]
STOP = ("systemctl disable", "systemctl stop", "systemctl daemon-reload")


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """A unit, a folder with a file, and a link to something else; then a path that does not exist."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "alert.timer").touch()
    (tmp_path / "state/queue").mkdir(parents=True)
    (tmp_path / "state/queue/line").touch()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    return [str(tmp_path / name) for name in ("alert.timer", "state", "link", "none")]


def test_the_units_are_stopped_and_the_files_removed_once(programs: Programs, paths: list[str], tmp_path: Path) -> None:
    programs.prints("systemctl show", "LoadState=loaded\nActiveState=active")
    assert call(service_removal, check=True, units=UNITS, paths=paths)["changed"]
    assert programs.calls(*STOP) == []
    assert (tmp_path / "state/queue/line").exists()

    assert call(service_removal, units=UNITS, paths=paths)["removed"] == [*UNITS, *paths[:3]]
    stopped = [f"systemctl disable --now --quiet {unit}" for unit in UNITS]
    assert programs.calls(*STOP) == [*stopped, "systemctl daemon-reload"]
    assert not any(Path(path).is_symlink() or Path(path).exists() for path in paths)
    assert (tmp_path / "kept/file").exists()

    programs.prints("systemctl show", "LoadState=not-found\nActiveState=inactive")
    assert not call(service_removal, units=UNITS, paths=paths)["changed"]
    assert programs.calls(*STOP) == []


def test_a_unit_that_runs_without_its_file_is_stopped(programs: Programs) -> None:
    programs.prints("systemctl show", "LoadState=not-found\nActiveState=active")
    assert call(service_removal, units=UNITS[:1], paths=[])["changed"]
    assert programs.calls(*STOP) == ["systemctl stop alert.timer", "systemctl daemon-reload"]


def test_the_files_of_a_unit_that_can_not_be_stopped_stay(programs: Programs, paths: list[str], tmp_path: Path) -> None:
    programs.prints("systemctl show", "LoadState=loaded\nActiveState=active")
    programs.fails("systemctl disable")
    result = call(service_removal, units=UNITS, paths=paths)
    assert result["msg"] == "alert.timer could not be stopped: disable failed. Its files were not removed."
    assert (tmp_path / "alert.timer").exists()
