"""The status of all hosts as one document, with its schema."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
from ansible_collections.blueoctopus.site.plugins.plugin_utils.status import document
from ansible_collections.blueoctopus.site.plugins.plugin_utils.status_table import problem_lines
from status_examples import LOST, NOW, REQUESTS, SCHEMA, V2, replication, result


@pytest.mark.parametrize(
    "results",
    [
        {},
        {"web1": result(), "web2": LOST},
        {"web1": result({"state": "failed", "live": V2, "certificate": None, "last": None, "history": []})},
        {"web1": {"msg": "MODULE FAILURE", "failed": False}},
        {"web1": result(backup=None, updates=None, disks=[], apps=[])},
        {"db1": result(replication=replication()), "db2": result(replication=replication("standby", lag_seconds=99))},
        {"db1": result(replication=replication("fenced", problem="its server still runs"))},
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


def test_control_characters_of_a_log_reach_no_terminal() -> None:
    status = document({"web1": result({"state": "failed", "cause": "\x1b[2Jboo\x07\u202e"})}, now=NOW)
    assert "boo" in "\n".join(problem_lines(status))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e]", json.dumps(status, ensure_ascii=False))
