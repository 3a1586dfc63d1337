"""The tasks of the role app that install the Debian packages of an app, in check mode on the control node."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not shutil.which("dpkg-query"), reason="the tasks are for Debian")


CASES: dict[str, tuple[dict[str, list[str]], str]] = {
    "without": ({"packages": [], "build_packages": []}, ""),
    "installed": ({"packages": ["dpkg"], "build_packages": ["bash", "dpkg"]}, ""),
    "missing": ({"packages": ["dpkg", "libnone1"], "build_packages": ["none-dev"]}, "libnone1, none-dev"),
}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output of these tasks, with a host for each case."""
    folder = tmp_path_factory.mktemp("packages")
    known = yaml.safe_load((PROJECT / "roles/app/vars/main.yml").read_text())
    variables = {name: known[name] for name in ("__app_debian_packages", "__app_missing_packages")}
    play = {"hosts": "all", "gather_facts": False, "vars": variables}
    play["tasks"] = [{"ansible.builtin.include_tasks": str(PROJECT / "roles/app/tasks/packages.yml")}]
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    hosts = {case: {"__app_entry": keys} for case, (keys, _missing) in CASES.items()}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    environment = os.environ | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    run = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "--check", "-i", "hosts.yml", "-c", "local", "play.yml"],
        cwd=folder,
        env=environment | {"LC_ALL": "C.UTF-8", "ANSIBLE_PYTHON_INTERPRETER": sys.executable},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize("case", CASES)
def test_only_missing_packages_are_installed(output: str, case: str) -> None:
    _keys, missing = CASES[case]
    shown = output.partition(f"[{case}]\n")[2].split("\n")[0]
    assert shown == (f"Would install {missing}" if missing else ""), output
    recap = re.search(rf"^{case} .* changed=(\d+) ", output, re.MULTILINE)
    assert recap, output
    assert int(recap[1]) == bool(missing)
