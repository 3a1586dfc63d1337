"""The guides: their settings are valid, they mention every setting, and the files that they name exist."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.blueoctopus.site.plugins.plugin_utils.inventory import check_app_keys
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import app_keys, machine_settings
from ansible_collections.blueoctopus.site.plugins.plugin_utils.validation import find_problem
from packages import UV, wheel

PROJECT = Path(__file__).resolve().parent.parent
GUIDES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
# Pages for contributors, which name many files.
FOR_CONTRIBUTORS = [PROJECT / "CONTRIBUTING.md", PROJECT / "docs/architecture.md"]
FILE = re.compile(r"`((?:docs|molecule|playbooks|plugins|roles|script|tests)/[\w./@*-]+)[^`]*`")
# Sources in the examples that the project does not contain.
ELSEWHERE = {"source"}


def settings(guide: Path) -> Iterator[dict[str, Any]]:
    """The blocks of YAML in a guide that are a set of keys and values."""
    for block in re.findall(r"^ *```yaml\n(.*?)^ *```$", guide.read_text(), re.DOTALL | re.MULTILINE):
        found = yaml.safe_load(block)
        if isinstance(found, dict):
            yield found


def entries(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The apps of a block, which may be keys of one app."""
    if "apps" in found:
        return list(found["apps"])
    return [found] if set(found) & set(app_keys()) else []


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: str(guide.relative_to(PROJECT)))
def test_the_settings_in_a_guide_are_valid(guide: Path) -> None:
    for found in settings(guide):
        for app in entries(found):
            assert set(app) <= set(app_keys()), app
            checked = {key for key, value in app.items() if "{{" not in str(value)} - ELSEWHERE
            assert list(check_app_keys(app, checked, str(guide))) == []
        for name, value in found.items():
            if name in machine_settings():
                assert find_problem(name, value, machine_settings()[name], name) is None


def test_the_guides_contain_settings() -> None:
    assert sum(len(entries(found)) for guide in GUIDES for found in settings(guide)) > 10


def test_each_setting_is_in_a_guide() -> None:
    text = "\n".join(guide.read_text() for guide in GUIDES)
    wanted = {name for name, entry in machine_settings().items() if entry.get("inventory", True)} | set(app_keys())
    assert {name for name in wanted if not re.search(rf"\b{name}\b", text)} == set()


@pytest.mark.parametrize("page", FOR_CONTRIBUTORS, ids=lambda page: page.name)
def test_a_page_for_contributors_names_files_that_exist(page: Path) -> None:
    names = FILE.findall(page.read_text())
    assert len(names) > 20
    patterns = {name: re.sub("NAME|ROLE|SCENARIO|HOST", "*", name) for name in names}
    assert [name for name, pattern in patterns.items() if not any(PROJECT.glob(pattern))] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "files",
    [
        {"requirements.txt": "flask"},
        {"requirements.in": "flask\n"},
        {"requirements.in": "flask\n", "requirements.txt": "flask==1.0\n"},
        {"requirements.txt": "flask==1.0\n"},
    ],
)
def test_the_lock_of_the_guide_has_the_dependencies_of_the_project_and_gunicorn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]
) -> None:
    for name in ("flask", "gunicorn"):
        wheel(tmp_path / "wheels", name)
    for name in ("notes", "project"):
        (tmp_path / name).mkdir()
    for name, text in files.items():
        (tmp_path / "notes" / name).write_text(text)
    (tmp_path / "project/uv.toml").write_text('no-index = true\nfind-links = ["../wheels"]\n')
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(Path(UV).parent), prepend=":")
    section = (PROJECT / "docs/your-app.md").read_text().partition("\n## Requirements\n")[2]
    commands = section.partition("```sh\n")[2].partition("```")[0]
    subprocess.run(["bash", "-ec", commands], cwd=tmp_path / "project", check=True)
    locked = (tmp_path / "notes/requirements.txt").read_text()
    assert re.findall(r"^(\w+)==1\.0 \\$", locked, re.MULTILINE) == ["flask", "gunicorn"]


def test_an_app_from_pypi_needs_at_most_three_files_beside_its_entry_in_apps() -> None:
    apps = yaml.safe_load((PROJECT / "molecule/apps/inventory/group_vars/webservers.yml").read_text())["apps"]
    folders = [PROJECT / "molecule/apps/apps" / app["name"] for app in apps]
    assert {folder.name: len(list(folder.iterdir())) for folder in folders if len(list(folder.iterdir())) > 3} == {}


def test_texts_use_one_spelling() -> None:
    """can't, also in messages. Some files contain the messages of other programs."""
    foreign = {
        "plugins/module_utils/hints.py",
        "plugins/modules/nginx_config.py",
        "tests/test_hints.py",
        "tests/test_shipped_logs.py",
    }
    done = subprocess.run(["git", "grep", "-lwIi", "canno[t]"], cwd=PROJECT, capture_output=True, text=True)
    assert set(done.stdout.split()) == foreign
