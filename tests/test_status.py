"""The status: problems, the document and its schema, the table, the output of the playbook."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import checks
from ansible_collections.blueoctopus.site.plugins.plugin_utils.status import document
from ansible_collections.blueoctopus.site.plugins.plugin_utils.status_table import (
    details,
    notes,
    problem_lines,
    short_age,
    short_commit,
    table,
)
from status_examples import APP, DISK, EVENT, LOST, NOW, REQUESTS, V1, V2, host, result

PROJECT = Path(__file__).resolve().parent.parent
SCHEMA = json.loads((PROJECT / "docs/status.schema.json").read_text())


def kinds(*apps: dict[str, Any], **changes: Any) -> list[str]:
    return [entry["kind"] for entry in host(*apps, **changes)["problems"]]


# --- what is a problem ------------------------------------------------------------------------------------------------


def test_a_healthy_host_has_no_problem() -> None:
    assert kinds() == []


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        ({"state": "failed"}, "down"),
        ({"state": "failed", "died_recently": ["shop@x.service"]}, "down"),
        ({"workers": 0}, "down"),
        ({"died_recently": ["shop@x.service"]}, "dying"),
        ({"died": ["1 worker of shop@x.service"]}, None),
        ({"processes": {"mail.1": "restarting"}}, "process"),
        ({"live": "", "state": "absent"}, "absent"),
        ({"live": "", "state": "absent", "in_inventory": False}, None),
        ({"unfinished": True}, "unfinished"),
        ({"unfinished": True, "locked_by": {"by": "somebody@laptop"}}, None),
        ({"requests": {**REQUESTS, "errors": 5}}, "errors"),
        ({"requests": {**REQUESTS, "errors": 4}}, None),
        ({"requests": {**REQUESTS, "requests": 10000, "errors": 400}}, None),
        ({"requests": {**REQUESTS, "errors": 100}, "in_maintenance": True}, None),
        ({"certificate": {**APP["certificate"], "days_left": 9}}, "certificate"),
        ({"certificate": {**APP["certificate"], "days_left": -1}}, "certificate"),
        ({"certificate": {**APP["certificate"], "is_there": False}}, "certificate"),
        ({"certificate": {**APP["certificate"], "problem": "the authority is busy"}}, None),
        ({"certificate": None}, None),
    ],
)
def test_problems_of_an_app(app: dict[str, Any], expected: str | None) -> None:
    assert kinds(app) == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"disks": [{**DISK, "percent": 90, "inodes_percent": 7}]}, "disk"),
        ({"disks": [{**DISK, "inodes_percent": 95}]}, "disk"),
        ({"failed_units": ["logrotate.service"]}, "unit"),
        ({"backup": None}, None),
        ({"backup": {"last_backup": "2026-01-01T02:00:00Z", "problem": "no space"}}, "backup"),
        ({"backup": {"last_backup": None}}, "backup"),
        ({"reboot_needed": True}, None),
        ({"updates": None}, None),
        ({"alerts": {"delivery": {"failing_since": "2026-01-02T03:00:00Z", "error": "refused"}}}, "delivery"),
        ({"alerts": {"delivery": {"failing_since": "2026-01-02T03:08:00Z", "error": "refused"}}}, None),
        ({"alerts": {"checked": "2026-01-02T03:09:00Z", "delivery": {}}}, None),
        ({"alerts": {"checked": "2026-01-02T02:00:00Z", "delivery": {}}}, "delivery"),
    ],
)
def test_problems_of_a_host(changes: dict[str, Any], expected: str | None) -> None:
    assert kinds(**changes) == ([expected] if expected else [])


def test_a_service_that_restarts_again_and_again_is_the_same_problem_in_each_check() -> None:
    died = {"died_recently": [f"shop@{V1}.service"]}
    for state in ("restarting", "active"):
        found = host({"state": state, **died})["problems"]
        assert ("dying", f"shop@{V1}.service") in [(entry["kind"], entry["subject"]) for entry in found]


def test_the_failed_unit_of_an_app_that_is_down_is_one_problem() -> None:
    found = host({"state": "failed"}, failed_units=[f"shop@{V1}.service", "shopping.service"])["problems"]
    assert [entry["kind"] for entry in found] == ["down", "unit"]
    assert found[1]["subject"] == "shopping.service"


def samples(used: list[float], step: float = 3600) -> list[dict[str, Any]]:
    return [{"time": NOW - step * (len(used) - n), "disks": {"/": value}} for n, value in enumerate(used)]


def test_a_disk_that_will_be_full_within_a_day_is_a_problem() -> None:
    growing = {"delivery": {}, "samples": samples([10**9 * n for n in range(1, 5)])}
    (found,) = host(alerts=growing)["problems"]
    assert found["text"] == "the disk / will be full in 6 h if it grows as before"
    slow = {"delivery": {}, "samples": samples([10**8 * n for n in range(1, 5)])}
    assert host(alerts=slow)["problems"] == []
    short = {"delivery": {}, "samples": samples([10**9 * n for n in range(1, 5)], 600)}
    assert host(alerts=short)["problems"] == []
    assert checks.trend([], "/") is None


def test_the_text_of_a_problem_has_nothing_of_the_log_of_the_app() -> None:
    (found,) = host({"state": "failed", "cause": "KeyError: 'squid-ink'"})["problems"]
    assert "squid" not in found["text"]
    assert found["log"] == "KeyError: 'squid-ink'"


# --- the document -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "results",
    [
        {},
        {"web1": result(), "web2": LOST},
        {"web1": result({"state": "failed", "live": V2, "certificate": None, "last": None, "history": []})},
        {"web1": {"msg": "MODULE FAILURE", "failed": False}},
        {"web1": result(backup=None, updates=None, disks=[], apps=[])},
        {
            "web1": result(
                {"day": {**REQUESTS, "series": [{"time": 1, "requests": 1, "errors": 0, "p50": 1, "p95": None}]}}
            )
        },
    ],
)
def test_the_document_matches_its_schema(results: dict[str, Any]) -> None:
    status = document(results, now=NOW)
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(json.loads(json.dumps(status)), SCHEMA)
    assert bool(status["problems"]) == any(h["problems"] for h in status["hosts"].values())


def test_the_schema_refuses_unknown_fields() -> None:
    status = document({"web1": result()}, now=NOW)
    status["hosts"]["web1"]["apps"][0]["colour"] = "blue"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(status, SCHEMA)


def test_a_host_that_cannot_be_reached_is_a_problem_with_its_reason() -> None:
    status = document({"web1": result(), "web2": {"skipped": True}}, {"web2": LOST}, now=NOW)
    (problem,) = status["problems"]
    assert (problem["host"], problem["kind"]) == ("web2", "unreachable")
    assert problem["text"] == "can't be reached: ssh: connect to host web2 port 22: No route to host"


def test_a_clock_that_is_off_is_a_problem() -> None:
    assert document({"web1": result(time=NOW - 30)}, now=NOW)["problems"] == []
    (problem,) = document({"web1": result(time=NOW - 400)}, now=NOW)["problems"]
    assert problem["text"] == "the clock is 400 s behind that of the control node"


def test_the_time_that_other_hosts_need_is_no_error_of_a_clock() -> None:
    asked = {"asked": NOW - 300, "answered": NOW - 290}
    assert (
        document({"web1": {**result(time=NOW - 295), **asked}}, now=NOW)["hosts"]["web1"]["clock_offset_seconds"] == 0
    )
    assert document({"web1": {**result(time=NOW - 295), **asked}}, now=NOW)["problems"] == []
    (problem,) = document({"web1": {**result(time=NOW), **asked}}, now=NOW)["problems"]
    assert problem["text"] == "the clock is 290 s ahead of that of the control node"


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


def test_control_characters_of_a_log_reach_no_terminal() -> None:
    status = document({"web1": result({"state": "failed", "cause": "\x1b[2Jboo\x07\u202e"})}, now=NOW)
    assert "boo" in "\n".join(problem_lines(status))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e]", json.dumps(status, ensure_ascii=False))


# --- the table --------------------------------------------------------------------------------------------------------


def test_a_row_for_each_host_and_app_is_aligned() -> None:
    status = document({"web1": result({}, {"name": "newsletter"}), "web2": result()}, now=NOW)
    lines = table(status)
    headings = "HOST APP STATE RELEASE COMMIT AGE WRK MEM REQ/M ERR/M P95 CERT BACKUP UPD DISK"
    assert " ".join(lines[0].split()) == headings
    assert " ".join(lines[1].split()) == "web1 shop active 000000 0123456 3h 5 182M 20 0 210ms 61d 14h 3 41%"
    assert len(lines) == 4
    assert len({line.index("active") for line in lines[1:]}) == 1
    assert max(map(len, lines)) <= 120


def test_problems_come_first_and_are_marked() -> None:
    status = document({"web1": result(), "web2": LOST, "web3": result({"state": "failed"})}, now=NOW)
    lines = table(status)
    assert [line.split()[0] for line in lines[1:]] == ["!", "!", "web1"]
    assert "unreachable" in lines[1]
    assert "failed" in lines[2]


def test_a_release_that_differs_from_that_of_most_hosts_is_marked() -> None:
    status = document({f"web{n}": result({"live": V2 if n == 2 else V1}) for n in (1, 2, 3)}, now=NOW)
    marked = [line for line in table(status)[1:] if "*" in line]
    assert [line.split()[:4] for line in marked] == [["web2", "shop", "active", "111111*"]]
    assert "* differs from the release on most hosts" in notes(status)


def test_of_two_releases_the_older_is_marked() -> None:
    status = document({"web1": result({"live": V2}), "web2": result({"live": V1})}, now=NOW)
    assert [app["differs"] for host in status["hosts"].values() for app in host["apps"]] == [False, True]


def test_colours_do_not_change_the_alignment() -> None:
    status = document({"web1": result({"state": "failed"}), "web2": result()}, now=NOW)
    painted = table(status, lambda text, mark: f"\x1b[31m{text}\x1b[0m" if mark else text)
    assert [re.sub(r"\x1b\[\d+m", "", line).rstrip() for line in painted] == table(status)
    assert painted != table(status)


def test_a_problem_is_listed_with_the_last_error_and_the_command_for_the_log() -> None:
    status = document({"web1": result({"state": "failed", "cause": "KeyError: 'KEY' in main.py, line 3"})}, now=NOW)
    lines = problem_lines(status)
    assert lines[0] == "1 problem"
    assert lines[1] == "  web1  shop  down: the web service is in the state failed"
    assert lines[2].strip() == "last error: KeyError: 'KEY' in main.py, line 3"
    assert lines[3].strip() == "log: sudo journalctl -u 'shop@*' -u 'shop.*' --since '1 hour ago'"
    assert len(lines) == 4
    assert problem_lines(document({"web1": result()}, now=NOW)) == ["No problem."]


def test_a_known_error_is_listed_with_its_solution() -> None:
    cause = "OSError: [Errno 30] Read-only file system: 'uploads/x' in main.py, line 3"
    lines = problem_lines(document({"web1": result({"state": "failed", "cause": cause})}, now=NOW))
    assert lines[3].strip().startswith("solution: The app can't write to uploads/x")


def test_what_is_no_problem_is_explained_below_the_table() -> None:
    app = {"in_inventory": False, "in_maintenance": True, "locked_by": {"by": "somebody@laptop"}}
    lines = notes(document({"web1": result(app)}, now=NOW))
    assert any("not in the inventory" in line for line in lines)
    assert any("in maintenance" in line for line in lines)
    assert any("locked by a run of somebody@laptop" in line for line in lines)


def test_one_app_is_shown_with_its_releases_and_history() -> None:
    failed = {**EVENT, "result": "failed", "release": V2, "by": "x@y", "reason": "web1: KeyError"}
    status = document(
        {"web1": result({"history": [failed], "rolled_back": [V2]}, {"name": "blog"})}, app="shop", now=NOW
    )
    (app,) = status["hosts"]["web1"]["apps"]
    text = "\n".join(details("web1", app))
    for words in (f"live     {V1}", "active, 5 workers, up 3 h", f"{V2}  (rolled back from)", "web1: KeyError"):
        assert words in text, words


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (5, "5s"), (300, "5min"), (7200, "2h"), (90000, "1d"), (-5, "-")]
)
def test_an_age_has_one_unit(seconds: float | None, text: str) -> None:
    assert short_age(seconds) == text


def test_the_mark_of_uncommitted_changes_stays() -> None:
    assert short_commit("0123456789abcdef+changes") == "0123456+"
    assert short_commit("") == ""


# --- the playbook -----------------------------------------------------------------------------------------------------

Status = Callable[..., tuple[int, str]]


@pytest.fixture
def status(tmp_path: Path) -> Status:
    """Run the action of the playbook on given results; with a terminal if requested."""

    def run(results: dict[str, Any], terminal: bool = False, **environment: str) -> tuple[int, str]:
        task = {"blueoctopus.site.status_report": {"results": results, "json": str(tmp_path / "status.json")}}
        play = [{"hosts": "localhost", "gather_facts": False, "tasks": [{"name": "Show the status", **task}]}]
        (tmp_path / "play.json").write_text(json.dumps(play))
        own = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "NO_COLOR", "PY_COLORS"))}
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,"]
        reader, writer = pty.openpty() if terminal else os.pipe()
        done = subprocess.Popen(
            [*command, "-c", "local", str(tmp_path / "play.json")],
            cwd=PROJECT,
            env=own
            | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "TERM": "xterm", "LC_ALL": "C.UTF-8"}
            | environment,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
        )
        os.close(writer)
        output = b""
        try:
            while part := os.read(reader, 65536):
                output += part
        except OSError:  # the end of a terminal
            pass
        os.close(reader)
        return done.wait(), output.decode()

    return run


def now_results() -> dict[str, Any]:
    """Results of a host that is healthy now."""
    import time

    return {"web1": result(time=time.time(), backup=None)}


@pytest.mark.slow
def test_the_exit_code_is_zero_without_a_problem_and_the_json_is_written(status: Status, tmp_path: Path) -> None:
    code, output = status(now_results())
    assert code == 0, output
    assert "No problem." in output
    assert re.search(r"^web1 +shop +active", output, re.M), output
    jsonschema.validate(json.loads((tmp_path / "status.json").read_text()), SCHEMA)


@pytest.mark.slow
def test_the_exit_code_is_two_with_a_problem_and_the_json_is_written(status: Status, tmp_path: Path) -> None:
    code, output = status({**now_results(), "web2": LOST})
    assert code == 2, output
    assert "can't be reached: ssh: connect to host web2" in output
    written = json.loads((tmp_path / "status.json").read_text())
    assert [problem["host"] for problem in written["problems"]] == ["web2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("terminal", "environment", "colored"),
    [(False, {}, False), (True, {}, True), (True, {"NO_COLOR": "1"}, False), (True, {"ANSIBLE_NOCOLOR": "1"}, False)],
)
def test_only_a_terminal_gets_colours(
    status: Status, terminal: bool, environment: dict[str, str], colored: bool
) -> None:
    _, output = status({**now_results(), "web2": LOST}, terminal, **environment)
    row = next(line for line in output.splitlines() if "unreachable" in line and "web2" in line)
    assert ("\x1b[" in row) == colored, output
