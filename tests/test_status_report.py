"""The output of the playbook status: its exit code, its file, its colours."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from status_examples import LOST, PROJECT, SCHEMA, result

Status = Callable[..., tuple[int, str]]


@pytest.fixture
def status(tmp_path: Path) -> Status:
    """Run the action of the playbook on given results; with a terminal if requested."""

    def run(results: dict[str, Any], terminal: bool = False, **environment: str) -> tuple[int, str]:
        task = {"blueoctopus.site.status_report": {"results": results, "json": str(tmp_path / "status.json")}}
        play = [{"hosts": "localhost", "gather_facts": False, "tasks": [{"name": "Show the status", **task}]}]
        (tmp_path / "play.json").write_text(json.dumps(play))
        own = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "NO_COLOR", "PY_COLORS"))}
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,"]
        reader, writer = pty.openpty() if terminal else os.pipe()
        done = subprocess.Popen(
            [*command, "-c", "local", str(tmp_path / "play.json")],
            cwd=PROJECT,
            env=own
            | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "TERM": "xterm", "LC_ALL": "C.UTF-8"}
            | environment,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
        )
        os.close(writer)
        output = b""
        try:
            while part := os.read(reader, 65536):
                output += part
        except OSError:  # the end of a terminal
            pass
        os.close(reader)
        return done.wait(), output.decode()

    return run


def now_results() -> dict[str, Any]:
    """Results of a host that is healthy now."""
    import time

    return {"web1": result(time=time.time(), backup=None)}


@pytest.mark.slow
def test_the_exit_code_is_zero_without_a_problem_and_the_json_is_written(status: Status, tmp_path: Path) -> None:
    code, output = status(now_results())
    assert code == 0, output
    assert "No problem." in output
    assert re.search(r"^web1 +shop +active", output, re.M), output
    jsonschema.validate(json.loads((tmp_path / "status.json").read_text()), SCHEMA)


@pytest.mark.slow
def test_the_exit_code_is_two_with_a_problem_and_the_json_is_written(status: Status, tmp_path: Path) -> None:
    code, output = status({**now_results(), "web2": LOST})
    assert code == 2, output
    assert "can't be reached: ssh: connect to host web2" in output
    written = json.loads((tmp_path / "status.json").read_text())
    assert [problem["host"] for problem in written["problems"]] == ["web2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("terminal", "environment", "colored"),
    [(False, {}, False), (True, {}, True), (True, {"NO_COLOR": "1"}, False), (True, {"ANSIBLE_NOCOLOR": "1"}, False)],
)
def test_only_a_terminal_gets_colours(
    status: Status, terminal: bool, environment: dict[str, str], colored: bool
) -> None:
    _, output = status({**now_results(), "web2": LOST}, terminal, **environment)
    row = next(line for line in output.splitlines() if "unreachable" in line and "web2" in line)
    assert ("\x1b[" in row) == colored, output
