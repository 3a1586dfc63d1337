"""Fixtures for the tests of this scenario."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from deploying import at_task
from testing import PROJECT, Machine, Run

__all__ = ["at_task", "status"]
Play = Callable[..., Run]
Status = Callable[..., tuple[Run, dict[str, Any]]]
SCHEMA = json.loads((PROJECT / "docs/status.schema.json").read_text())


@pytest.fixture
def status(machine: Machine, play: Play, tmp_path: Path) -> Status:
    """Run the playbook; return the run and what it has written as JSON."""

    def run(*options: str, limit: str = machine.name) -> tuple[Run, dict[str, Any]]:
        done = play("status", "-e", f"json={tmp_path / 'status.json'}", *options, limit=limit)
        assert done.code in (0, 2), done.output
        found = json.loads((tmp_path / "status.json").read_text())
        jsonschema.validate(found, SCHEMA)
        assert done.code == (2 if found["problems"] else 0), done.output
        return done, found

    return run
