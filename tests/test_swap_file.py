"""Swap on a host with little memory: which hosts get it, and the file itself."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.modules import swap_file
from modules import Programs, call


@pytest.fixture(autouse=True)
def small_host(programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual machine with 1000 MiB of memory and no swap."""
    programs.add("systemd-detect-virt", "exit 1")  # no container
    monkeypatch.setattr(swap_file, "FILE", tmp_path / "swapfile")
    monkeypatch.setattr(swap_file, "UNIT", tmp_path / "units/swapfile.swap")
    monkeypatch.setattr(swap_file, "mebibytes", {"MemTotal": 1000, "SwapTotal": 0}.__getitem__)


@pytest.mark.needs("mkswap")
def test_a_small_host_gets_a_swap_file_without_holes_that_only_root_can_read(
    programs: Programs, tmp_path: Path
) -> None:
    assert call(swap_file, size=2)["changed"]
    file = tmp_path / "swapfile"
    assert file.read_bytes()[4086:4096] == b"SWAPSPACE2"
    assert file.stat().st_size == 2 * 2**20
    assert file.stat().st_blocks * 512 >= file.stat().st_size
    assert file.stat().st_mode & 0o777 == 0o600
    assert "What=/swapfile" in (tmp_path / "units/swapfile.swap").read_text()
    assert programs.calls("systemctl")[-1] == "systemctl enable --now --quiet swapfile.swap"


@pytest.mark.parametrize(
    ("memory", "swap", "container", "args", "reason"),
    [
        (1000, 0, False, {"size": 0}, "the size is 0"),
        (2100, 0, False, {}, "the host has enough memory: 2100 MiB"),
        (1000, 0, True, {}, "a container shares the swap of its host"),
        (1000, 512, False, {}, "the host already has swap"),
    ],
)
def test_other_hosts_stay_as_they_are(
    programs: Programs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    memory: int,
    swap: int,
    container: bool,
    args: dict[str, Any],
    reason: str,
) -> None:
    monkeypatch.setattr(swap_file, "mebibytes", {"MemTotal": memory, "SwapTotal": swap}.__getitem__)
    if container:
        programs.add("systemd-detect-virt")
    result = call(swap_file, **args)
    assert (result["changed"], result["reason"]) == (False, reason)
    assert not (tmp_path / "swapfile").exists()


def test_a_disk_that_is_too_small_is_an_error_that_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=3 * 2**20))
    result = call(swap_file, size=2)
    assert result["failed"]
    assert "base_swap_size" in result["msg"]
    assert not (tmp_path / "swapfile").exists()


def test_swap_that_cannot_be_used_leaves_nothing_behind(programs: Programs, tmp_path: Path) -> None:
    programs.add("mkswap")
    programs.fails("systemctl enable")
    result = call(swap_file, size=1)
    assert result["failed"]
    assert "enable failed" in result["msg"]
    assert not (tmp_path / "swapfile").exists()
    assert not (tmp_path / "units/swapfile.swap").exists()


def test_check_mode_creates_nothing(programs: Programs, tmp_path: Path) -> None:
    assert call(swap_file, check=True, size=1)["changed"]
    assert not (tmp_path / "swapfile").exists()
    assert programs.calls("systemctl") == []
