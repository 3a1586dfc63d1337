"""Whether the logs of a host are sent: what rsyslog reports, its service, its queue."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.shipped_logs import describe_logs
from status_examples import host

Render = Callable[..., str]
NAME = "logs.example.org"


@pytest.fixture
def reported(render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any] | None]:
    """Describe the shipped logs with these messages of rsyslog, the newest first, each at a time of its own.

    The unit of the service may have other properties.
    """

    def described(*texts: str, **unit: str) -> dict[str, Any] | None:
        (tmp_path / "queue").mkdir(exist_ok=True)
        (tmp_path / "queue/ship.00000001").write_text("x" * 2_000_000)
        (tmp_path / "ship.conf").write_text(render("logs", "ship.conf.j2", logs_ship={"to": NAME, "disk": "4m"}))
        (tmp_path / "bin").mkdir(exist_ok=True)
        lines = [
            json.dumps({"__REALTIME_TIMESTAMP": str((1_767_323_400 - number) * 10**6), "MESSAGE": text})
            for number, text in enumerate(texts)
        ]
        (tmp_path / "lines").write_text("".join(f"{line}\n" for line in lines))
        # What --grep selects, as journalctl does.
        (tmp_path / "bin/journalctl").write_text(
            f'#!/bin/sh\nfor o; do case $o in --grep=*) exec grep -E "${{o#--grep=}}" {tmp_path}/lines;; esac; done\n'
            f"cat {tmp_path}/lines\n"
        )
        (tmp_path / "bin/journalctl").chmod(0o755)
        (tmp_path / "bin/systemctl").write_text(f"#!/bin/sh\ncat {tmp_path}/unit\n")
        (tmp_path / "bin/systemctl").chmod(0o755)
        properties = {"Id": "logs-ship.service", "ActiveState": "active", "NRestarts": "0"} | unit
        (tmp_path / "unit").write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
        return describe_logs(tmp_path / "queue", tmp_path / "ship.conf")

    return described


def test_logs_that_are_not_sent_are_a_problem_with_the_reason(reported: Callable[..., dict[str, Any] | None]) -> None:
    found = reported(
        "warning: key file is not set [v8.2302.0 try https://www.rsyslog.com/e/2331 ]",
        "omfwd: [wrkr 0/1] no working target servers in pool available, suspending action [v8.2504.0 try https://…]",
        "cannot connect to logs.example.org:6514: \x1b[31mrefused [v8.2302.0 try https://www.rsyslog.com/e/2027 ]",
        "action 'ship' suspended (module 'builtin:omfwd'), retry 0.",
        "action 'ship' resumed (module 'builtin:omfwd')",
    )
    assert found == {
        "state": "active",
        "has_died": False,
        "space_bytes": 4 << 20,
        "waiting_since": "2026-01-02T03:09:57Z",
        "error": "cannot connect to logs.example.org:6514: ?[31mrefused",
        "waiting_bytes": 2_000_000,
    }
    (problem,) = host(logs=found)["problems"]
    assert problem["kind"] == "logs"
    assert problem["text"].endswith("refused; 2 MB wait on the disk")


def test_logs_that_are_sent_again_are_no_problem(
    reported: Callable[..., dict[str, Any] | None], tmp_path: Path
) -> None:
    assert describe_logs(tmp_path / "none") is None
    for newest in ("action 'ship' resumed (module 'builtin:omfwd')", '[origin software="rsyslogd" x-pid="1"] start'):
        found = reported(newest, "action 'ship' suspended (module 'builtin:omfwd'), retry 0.")
        assert host(logs=found)["problems"] == []


def test_a_service_that_does_not_run_or_dies_again_and_again_is_a_problem(
    reported: Callable[..., dict[str, Any] | None],
) -> None:
    started = '[origin software="rsyslogd" x-pid="1"] start'
    states = [
        ({"ActiveState": "failed"}, "the service logs-ship is failed"),
        ({"ActiveState": "activating", "SubState": "auto-restart"}, "the service logs-ship is restarting"),
        ({"NRestarts": "7"}, "the service logs-ship died in the last 15 minutes"),
    ]
    for unit, words in states:
        (found,) = host(logs=reported(started, **unit))["problems"]
        assert (found["kind"], found["subject"]) == ("logs", "service")
        assert words in found["text"]
    now = time.monotonic()
    recovered = reported(started, NRestarts="7", ActiveEnterTimestampMonotonic=str(int((now - 1000) * 1e6)))
    assert now < 1000 or host(logs=recovered)["problems"] == []


def test_a_queue_that_is_nearly_full_is_a_problem_before_lines_are_lost(
    reported: Callable[..., dict[str, Any] | None], tmp_path: Path
) -> None:
    started = '[origin software="rsyslogd" x-pid="1"] start'
    reported(started)
    (tmp_path / "queue/ship.00000002").write_text("x" * 1_400_000)
    (found,) = host(logs=reported(started))["problems"]
    assert found["text"] == "81 % of the space for logs that can't be sent is used; lines are lost when it is full"
    assert host(logs=reported(started))["logs"]["waiting_bytes"] == 3_400_000
