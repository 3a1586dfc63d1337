"""What several files of tests need."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.plugins.loader import init_plugin_loader

# Let the collection be imported by its full name, as Ansible does it.
init_plugin_loader([str(Path(__file__).resolve().parent.parent / "collections")])

PROGRAM = Path(__file__).resolve().parent.parent / "roles/certificate/files/certificates"
SETTINGS = {
    "domains": ["shop.example", "www.shop.example"],
    "method": "selfsigned",
    "directory": "https://ca.example/dir",
    "ca_bundle": "",
    "email": "",
    "challenge": "http",
    "dns_provider": "",
    "check_names": False,
}
Make = Callable[..., Any]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, with folders of its own."""
    loader = importlib.machinery.SourceFileLoader("certificates", str(PROGRAM))
    spec = importlib.util.spec_from_loader("certificates", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    for name, path in {"SETTINGS": "etc", "STATE": "state", "CHALLENGES": "challenges"}.items():
        (tmp_path / path).mkdir()
        monkeypatch.setattr(module, name, tmp_path / path)
    monkeypatch.setattr(module, "CHANGED", tmp_path / "state/changed")
    return module


@pytest.fixture
def make(program: ModuleType) -> Make:
    """Make the certificate of a site with some settings."""

    def made(**settings: Any) -> Any:
        (program.SETTINGS / "shop.json").write_text(json.dumps(SETTINGS | settings))
        return program.Certificate("shop")

    return made
