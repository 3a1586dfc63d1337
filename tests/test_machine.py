"""script/machine: errors where it can't create machines, and separate names for each checkout."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest
from machines import common

SCRIPT = Path(__file__).resolve().parent.parent / "script/machine"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    loader = SourceFileLoader("machine_script", str(SCRIPT))
    spec = importlib.util.spec_from_loader("machine_script", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_on_macos_the_error_includes_the_solution(machine: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(machine.MachineError, match=r"need Linux.*this is darwin.*VM of your own") as error:
        machine.check_computer(False)
    assert "README.md" in str(error.value)


def test_missing_tools_are_reported_with_the_solution(
    machine: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda _tool: None)
    monkeypatch.setattr(sys, "argv", ["machine", "up", "x"])
    assert machine.main() == 1
    output = capsys.readouterr().err
    assert "Not installed here: mmdebstrap, systemd-nspawn" in output
    assert "Run script/bootstrap first." in output


def test_without_root_and_sudo_the_error_includes_the_solution(
    machine: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda tool: None if tool == "sudo" else tool)
    monkeypatch.setattr(machine.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["machine", "up", "x"])
    assert machine.main() == 1
    assert "Run this as root, or install sudo." in capsys.readouterr().err


def test_two_checkouts_do_not_share_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    here = common.identity("demo")
    monkeypatch.setattr(common, "CHECKOUT", Path("/somewhere/else"))
    assert common.identity("demo") != here


def test_keys_and_records_belong_to_this_checkout() -> None:
    project = Path(__file__).resolve().parent.parent
    checkout, keys = common.CHECKOUT, common.KEYS
    assert (checkout, keys) == (project, project / ".machines")


def test_the_command_runs_from_any_folder_without_writing_bytecode(tmp_path: Path) -> None:
    project = tmp_path / "checkout"
    shutil.copytree(
        SCRIPT.parent / "machines", project / "script/machines", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(SCRIPT, project / "script/machine")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        ["/usr/bin/python3", project / "script/machine", "list"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(project.rglob("__pycache__"))
