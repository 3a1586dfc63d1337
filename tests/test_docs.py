"""The settings in the guides are valid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.blueoctopus.site.plugins.plugin_utils.inventory import check_app_keys
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import app_keys, machine_settings
from ansible_collections.blueoctopus.site.plugins.plugin_utils.validation import find_problem

PROJECT = Path(__file__).resolve().parent.parent
GUIDES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
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
