"""Code that the modules for releases share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.release_module import fail_with_log

RELEASE = "20260101T000000Z-00000000aa"


def error(log: str) -> list[str]:
    """The lines of an error of a release with a log."""

    def fail_json(msg: str) -> None:
        raise SystemExit(msg)

    module: Any = SimpleNamespace(params={"name": "shop", "root": "/srv/shop"}, fail_json=fail_json)
    instance: Any = SimpleNamespace(release=RELEASE, log=lambda since: f"{log}{since:g}")
    with pytest.raises(SystemExit) as caught:
        fail_with_log(module, instance, "did not become ready. A reason.", 7)
    return str(caught.value).splitlines()


def test_an_error_has_the_app_the_release_the_problem_and_the_log() -> None:
    assert error("  log since ") == [
        f"shop: release {RELEASE} did not become ready. A reason.",
        "The last lines of its log:",
        "  log since 7",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "OSError: [Errno 30] Read-only file system: 'app.db'",
        "PermissionError: [Errno 13] Permission denied: '/srv/shop/releases'",
        "sqlite3.OperationalError: unable to open database file",
        "sqlite3.OperationalError: attempt to write a readonly database",
    ],
)
def test_an_app_that_cannot_write_is_told_where_it_can(line: str) -> None:
    hint = error(f"  {line}\n  ")[-1]
    assert "/srv/shop/data" in hint
    assert "DATA_DIR" in hint
    assert "shared_paths" in hint
