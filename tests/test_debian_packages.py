"""The tasks of the role app that install the Debian packages of an app, in check mode on the control node."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not shutil.which("dpkg-query"), reason="the tasks are for Debian")


@pytest.mark.parametrize(
    ("packages", "build_packages", "missing"),
    [
        ([], [], None),
        (["dpkg"], ["bash", "dpkg"], None),
        (["dpkg", "libnone1"], ["none-dev"], "libnone1, none-dev"),
    ],
)
def test_only_missing_packages_are_installed(
    packages: list[str], build_packages: list[str], missing: str | None, tmp_path: Path
) -> None:
    tasks = yaml.safe_load((PROJECT / "roles/app/tasks/main.yml").read_text())
    inner = [task for task in next(task["block"] for task in tasks if "block" in task) if "Debian" in task["name"]]
    assert [task["name"].split()[0] for task in inner] == ["Find", "Show", "Install"]
    known = yaml.safe_load((PROJECT / "roles/app/vars/main.yml").read_text())
    variables = {name: known[name] for name in ("__app_debian_packages", "__app_missing_packages")}
    variables["__app_entry"] = {"packages": packages, "build_packages": build_packages}
    play = {"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": inner}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    environment = os.environ | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    run = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "--check", "-i", "localhost,", "-c", "local", "play.yml"],
        cwd=tmp_path,
        env=environment | {"LC_ALL": "C.UTF-8", "ANSIBLE_PYTHON_INTERPRETER": sys.executable},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    shown = [line.partition("Would install ")[2] for line in run.stdout.splitlines() if "Would install" in line]
    assert shown == ([missing] if missing else []), run.stdout
    assert f"changed={int(bool(missing))} " in run.stdout
