"""Sets of configuration files: content, mode, single lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import files
from ansible_collections.blueoctopus.site.plugins.modules import config_files

PROJECT = Path(__file__).resolve().parent.parent


def test_files_are_written_with_their_mode(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/settings.conf"
    assert config_files.current_state(path) == ("", -1)
    files.write(path, "one\n", 0o640)
    assert config_files.current_state(path) == ("one\n", 0o640)
    assert os.listdir(path.parent) == ["settings.conf"]


@pytest.mark.slow
def test_a_file_with_a_wrong_mode_is_corrected(tmp_path: Path) -> None:
    path = tmp_path / "settings.conf"
    files.write(path, "one\n", 0o666)
    command = ["ansible", "localhost", "--connection=local", "--module-name=blueoctopus.site.config_files", "--args"]
    arguments = json.dumps({"files": {str(path): "one\n"}, "mode": "0640"})
    settings = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_PYTHON_INTERPRETER": sys.executable}
    done = subprocess.run([*command, arguments], cwd=PROJECT, env=os.environ | settings, capture_output=True, text=True)
    assert "CHANGED" in done.stdout, done.stdout + done.stderr
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_line_replaces_the_last_match_or_is_added_at_the_end() -> None:
    text = "# DAYS, explained\n#DAYS 0\nDAYS 7\nlast"
    lines = {r"^#?DAYS\b": "DAYS 1", r"^NEW\b": "NEW 2"}
    changed = config_files.with_lines(text, lines)
    assert changed == "# DAYS, explained\n#DAYS 0\nDAYS 1\nlast\nNEW 2\n"
    assert config_files.with_lines(changed, lines) == changed
