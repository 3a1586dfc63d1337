"""Code that the modules for releases share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.release_module import fail_with_log

RELEASE = "20260101T000000Z-00000000aa"


def failure(log: str, advice: str = "") -> list[str]:
    """The lines of the error for a release with a log, and advice for a log that gives no hint."""

    def fail_json(msg: str) -> None:
        raise SystemExit(msg)

    module: Any = SimpleNamespace(params={"name": "shop", "root": "/srv/shop"}, fail_json=fail_json)
    instance: Any = SimpleNamespace(release=RELEASE, log=lambda since: log.replace("SINCE", f"{since:g}"))
    with pytest.raises(SystemExit) as caught:
        fail_with_log(module, instance, "did not become ready. A reason.", 7, advice)
    return str(caught.value).splitlines()


def test_an_error_has_the_app_the_release_the_problem_the_log_and_the_command_for_more() -> None:
    assert failure("logged since SINCE\n") == [
        f"shop: release {RELEASE} did not become ready. A reason.",
        "The end of its log:",
        "  logged since 7",
        "The whole log, on the host: sudo journalctl -u 'shop@*' -u 'shop.*' --since '1970-01-01 00:00 UTC'",
    ]


def test_an_error_begins_with_the_exception_in_the_log() -> None:
    log = 'Traceback (most recent call last):\n  File "main.py", line 3, in <module>\n    x\nNameError: x\n'
    assert failure(log)[:2] == [
        "shop: NameError: x in main.py, line 3",
        f"Release {RELEASE} did not become ready. A reason.",
    ]


def test_a_hint_of_the_log_replaces_general_advice() -> None:
    assert failure("ready soon\n", "Wait longer.")[1] == "Wait longer."
    shown = failure(" * Serving Flask app 'shop'\n", "Wait longer.")
    assert "put app.run() under" in shown[1]
    assert "Wait longer." not in shown


@pytest.mark.parametrize(
    "line",
    [
        "OSError: [Errno 30] Read-only file system: 'app.db'",
        "PermissionError: [Errno 13] Permission denied: '/srv/shop/releases'",
        "sqlite3.OperationalError: unable to open database file",
        "sqlite3.OperationalError: attempt to write a readonly database",
    ],
)
def test_write_error_names_the_writable_folders(line: str) -> None:
    (hint,) = [shown for shown in failure(f"{line}\n") if "shared_paths" in shown]
    assert "/srv/shop/data" in hint
    assert "DATA_DIR" in hint
