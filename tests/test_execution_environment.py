"""The execution environment: ansible-builder accepts it, with the versions that the project is tested with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

PROJECT = Path(__file__).resolve().parent.parent
DEFINITION = PROJECT / "execution-environment.yml"
PYTHON = "3.13"  # of the base image


def pinned() -> dict[str, str]:
    """The versions in the definition, by package."""
    dependencies = yaml.safe_load(DEFINITION.read_text())["dependencies"]
    tools = [dependencies[name]["package_pip"] for name in ("ansible_core", "ansible_runner")]
    return dict(text.split("==") for text in [*tools, *dependencies["python"]])


def test_versions_are_those_that_the_project_is_tested_with() -> None:
    lines = (PROJECT / "requirements.txt").read_text().splitlines()
    locked = [Requirement(line.rstrip("\\ ")) for line in lines if line[:1].isalnum()]
    place = {"python_full_version": f"{PYTHON}.0", "python_version": PYTHON}
    expected = {
        one.name: str(one.specifier).strip("=") for one in locked if not one.marker or one.marker.evaluate(place)
    }
    found = pinned()
    found.pop("ansible-runner")  # only in the image
    assert found == {name: expected[name] for name in found}


@pytest.mark.slow
@pytest.mark.needs("ansible-builder")
def test_ansible_builder_creates_the_context(tmp_path: Path) -> None:
    command = ["ansible-builder", "create", "--file", str(DEFINITION), "--context", str(tmp_path), "--output-filename"]
    done = subprocess.run([*command, "Containerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    recipe = (tmp_path / "Containerfile").read_text()
    files = "\n".join(path.read_text() for path in (tmp_path / "_build").glob("*.txt"))
    assert "fedora:42" in recipe
    for name, version in pinned().items():
        assert f"{name}=={version}" in recipe + files
