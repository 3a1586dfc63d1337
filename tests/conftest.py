"""Make the collection importable by its full name, as in Ansible; fixtures that several files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible.plugins.loader import init_plugin_loader

init_plugin_loader([str(Path(__file__).resolve().parent.parent / "collections")])

from ansible_collections.blueoctopus.site.plugins.action import release_source  # noqa: E402
from ansible_collections.blueoctopus.site.plugins.module_utils.releases import Releases  # noqa: E402


@pytest.fixture
def isolated_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the control node's settings for git, and use a separate cache for packed sources."""
    for name in [name for name in os.environ if name.startswith("GIT_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Somebody")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "somebody@example.org")
    monkeypatch.setattr(release_source, "CACHE", tmp_path / "cache")
    release_source.CACHE.mkdir()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The source folder of a small app."""
    folder = tmp_path / "source"
    (folder / "templates").mkdir(parents=True)
    (folder / "main.py").write_text("app = None\n")
    (folder / "requirements.txt").write_text("flask\n")
    (folder / "templates/index.html").write_text("<p>\n")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/main.pyc").write_text("")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Releases:
    """An app without releases."""
    new = Releases("shop", tmp_path / "shop", sites=tmp_path / "sites")
    new.folder.mkdir(parents=True)
    return new
