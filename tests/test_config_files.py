"""Sets of configuration files: content, mode, single lines."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import files
from ansible_collections.blueoctopus.site.plugins.modules import config_files
from modules import call


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_are_written_with_their_mode(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/settings.conf"
    assert config_files.current_state(path) == ("", -1)
    files.write(path, "one\n", 0o640)
    assert config_files.current_state(path) == ("one\n", 0o640)
    assert os.listdir(path.parent) == ["settings.conf"]


@pytest.mark.parametrize(("option", "mode"), [("files", 0o640), ("programs", 0o755)])
def test_a_file_with_a_wrong_mode_is_corrected(tmp_path: Path, option: str, mode: int) -> None:
    path = tmp_path / "settings.conf"
    files.write(path, "one\n", 0o666)
    arguments: dict[str, Any] = {option: {str(path): "one\n"}, "mode": "0640"}
    assert call(config_files, check=True, **arguments)["changed"]
    assert mode_of(path) == 0o666
    assert call(config_files, **arguments)["written"] == [str(path)]
    assert mode_of(path) == mode
    assert not call(config_files, **arguments)["changed"]


def test_a_line_replaces_the_last_match_or_is_added_at_the_end() -> None:
    text = "# DAYS, explained\n#DAYS 0\nDAYS 7\nlast"
    lines = {r"^#?DAYS\b": "DAYS 1", r"^NEW\b": "NEW 2"}
    changed = config_files.with_lines(text, lines)
    assert changed == "# DAYS, explained\n#DAYS 0\nDAYS 1\nlast\nNEW 2\n"
    assert config_files.with_lines(changed, lines) == changed
