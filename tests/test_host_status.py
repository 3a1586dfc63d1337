"""The state of a host and its apps, as one answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import host_state
from ansible_collections.blueoctopus.site.plugins.modules import host_status
from ansible_collections.blueoctopus.site.plugins.plugin_utils.status import document
from modules import call
from status_examples import PROJECT, SCHEMA


@pytest.mark.usefixtures("programs")
def test_an_app_that_was_never_deployed_is_a_problem_and_the_state_matches_the_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_state, "UPDATES", tmp_path / "kept.json")
    state = call(host_status, apps=["shop"])
    assert not state["changed"]
    assert [app["live"] for app in state["host"]["apps"] if app["in_inventory"]] == [""]
    assert "absent" in [problem["kind"] for problem in state["host"]["problems"]]
    jsonschema.validate(document({"web1": state}), SCHEMA)


def test_apt_is_asked_again_only_when_packages_or_settings_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, packages, settings = tmp_path / "asked", tmp_path / "status", tmp_path / "preferences.d"
    packages.touch()
    settings.mkdir()
    (settings / "pin").touch()
    shown = "Inst tar [1] (2 Debian-Security:13/stable-security)\\nInst nginx [1] (2 Debian:13)\\n"
    (tmp_path / "apt-get").write_text(f"#!/bin/sh\nprintf '{shown}'\necho >>{asked}\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(host_state, "UPDATES", tmp_path / "kept.json")
    monkeypatch.setattr(host_state, "APT_FILES", (packages, settings, tmp_path / "none"))

    def count() -> int:
        assert host_state.Updates().count() == {"pending": 2, "security": 1}
        return len(asked.read_text().splitlines())

    assert [count(), count()] == [1, 1]
    os.utime(packages, (0, 0))
    assert [count(), count()] == [2, 2]
    os.utime(settings / "pin", (0, 0))
    assert [count(), count()] == [3, 3]
    (tmp_path / "kept.json").write_text("damaged")
    assert count() == 4


@pytest.mark.slow
def test_the_answer_of_a_host_has_the_times_of_the_control_node() -> None:
    program = str(Path(sys.executable).parent / "ansible")
    command = [program, "localhost", "-m", "blueoctopus.site.host_status", "-a", "apps=shop"]
    own = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "json", "LC_ALL": "C.UTF-8"}
    own |= {"ANSIBLE_LOAD_CALLBACK_PLUGINS": "true"}
    done = subprocess.run(command, cwd=PROJECT, env=os.environ | own, capture_output=True, text=True)
    assert '"asked"' in done.stdout, done.stdout + done.stderr
    found = json.loads(done.stdout)["plays"][0]["tasks"][0]["hosts"]["localhost"]
    assert found["asked"] <= found["host"]["time"] <= found["answered"]
