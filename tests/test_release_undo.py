"""The guard: the host's own way back to its confirmed release, when a run was interrupted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import release_undo


def test_the_guard_runs_from_its_own_copy_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(release_undo, "FOLDER", tmp_path)
    monkeypatch.setattr("subprocess.run", lambda command, **_options: commands.append(command))
    release_undo.start_guard("shop", "/srv/shop", "a" * 32)
    monkeypatch.undo()
    (command,) = commands
    program = command[command.index("-c") + 1]
    program = program.replace(f"{release_undo.NAME}.guard()", f"print({release_undo.NAME}.__file__)")
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True)
    assert Path(done.stdout.strip()).is_relative_to(tmp_path), done.stderr
