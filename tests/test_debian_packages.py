"""The tasks of the roles app and base that install Debian packages, in check mode on the control node."""

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


# For each role: its list of packages, and what it gets in each case.
ROLES = {
    "app": ("__app_debian_packages", "__app_missing_packages"),
    "base": ("__base_all_packages", "__base_missing_packages"),
}
CASES: dict[str, tuple[list[str], list[str], str]] = {
    "without": ([], [], ""),
    "installed": (["dpkg"], ["bash", "dpkg"], ""),
    "missing": (["dpkg", "libnone1"], ["none-dev"], "libnone1, none-dev"),
}


@pytest.fixture(scope="module", params=ROLES)
def output(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> str:
    """The output of the tasks of a role, with a host for each case."""
    role = request.param
    folder = tmp_path_factory.mktemp("packages")
    known = yaml.safe_load((PROJECT / f"roles/{role}/vars/main.yml").read_text())
    variables = {name: known[name] for name in ROLES[role]}
    play = {"hosts": "all", "gather_facts": False, "vars": variables | {"base_role_packages": []}}
    play["tasks"] = [{"ansible.builtin.include_tasks": str(PROJECT / f"roles/{role}/tasks/packages.yml")}]
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    hosts: dict[str, dict[str, object]] = {}
    for case, (first, second, _missing) in CASES.items():
        app = {"packages": first, "build_packages": second}
        hosts[case] = {"__app_entry": app, "base_packages": first, "base_extra_packages": second}
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
    _first, _second, missing = CASES[case]
    shown = output.partition(f"[{case}]\n")[2].split("\n")[0]
    assert shown == (f"Would install {missing}" if missing else ""), output
    recap = re.search(rf"^{case} .* changed=(\d+) ", output, re.MULTILINE)
    assert recap, output
    assert int(recap[1]) == bool(missing)
