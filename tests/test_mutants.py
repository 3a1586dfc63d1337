"""The mutants in tests/mutants: each patch still applies, and the test that it names exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
PATCHES = sorted((PROJECT / "tests/mutants").glob("*.patch"))


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_mutant_applies_and_names_an_existing_test(patch: Path) -> None:
    done = subprocess.run(["git", "apply", "--check", patch], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    named = re.search(r"^Test: (\S+?)(?:::(\w+)\S*)?(?: -k (\w+))?$", patch.read_text(), re.MULTILINE)
    assert named
    text = (PROJECT / named[1]).read_text()
    assert f"def {named[2] or 'test_'}" in text
    assert (named[3] or "") in text
