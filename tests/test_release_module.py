"""Code that the modules for releases share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.release_module import fail_with_log

RELEASE = "20260101T000000Z-00000000aa"


def test_an_error_has_the_app_the_release_the_problem_and_the_log() -> None:
    def fail_json(msg: str) -> None:
        raise SystemExit(msg)

    module: Any = SimpleNamespace(params={"name": "shop"}, fail_json=fail_json)
    instance: Any = SimpleNamespace(release=RELEASE, log=lambda since: f"  log since {since:g}")
    with pytest.raises(SystemExit) as caught:
        fail_with_log(module, instance, "did not become ready. A reason.", 7)
    assert str(caught.value).splitlines() == [
        f"shop: release {RELEASE} did not become ready. A reason.",
        "The last lines of its log:",
        "  log since 7",
    ]
