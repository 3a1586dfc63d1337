"""The status as a table, with the problems and notes below it."""

from __future__ import annotations

import re

import pytest
from ansible_collections.blueoctopus.site.plugins.plugin_utils.status import document
from ansible_collections.blueoctopus.site.plugins.plugin_utils.status_table import (
    details,
    notes,
    problem_lines,
    short_age,
    short_commit,
    table,
)
from status_examples import EVENT, LOST, NOW, V1, V2, backup, host, replication, result


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


def test_a_problem_of_a_backup_marks_the_row_of_its_app_and_the_column() -> None:
    bad = backup(("shop", "backup to store", "no space"), ("", "check of store", "damaged"))
    apps: tuple[dict[str, str], ...] = ({}, {"name": "blog"})
    failed = document({"web1": result(*apps, backup=backup(("shop", "drill", "no rows")))}, now=NOW)
    assert [line.split()[:3] for line in table(failed)[1:]] == [["!", "web1", "shop"], ["web1", "blog", "active"]]
    painted = table(failed, lambda text, mark: f"<{text}>" if mark else text)
    assert all("<14h>" in line for line in painted[1:])
    assert problem_lines(document({"web1": result(backup=bad)}, now=NOW)) == [
        "2 problems",
        "  web1  shop  backup: no space",
        "  web1        backup: damaged",
    ]


def test_a_host_is_marked_for_the_problem_of_an_app_that_has_no_row() -> None:
    # Such as a host of the group databases, which backs up databases of apps that run elsewhere.
    status = document({"web1": result(), "db1": result(backup=backup(("shop", "drill", "no rows")))}, now=NOW)
    status["hosts"]["db1"]["apps"] = []
    assert [line.split()[:2] for line in table(status)[1:]] == [["!", "db1"], ["web1", "shop"]]


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


@pytest.mark.parametrize(
    ("found", "text", "solution"),
    [
        (
            replication(standbys=[{"name": "standby_db2", "state": "not connected", "lag_bytes": None}]),
            "standby_db2 is not connected",
            "playbooks/site.yml connects the standby again",
        ),
        (
            replication("standby", connected=False),
            "the standby is not connected to its primary",
            "playbooks/site.yml connects the standby again",
        ),
        (replication("standby", lag_seconds=75.4), "the standby is 75 s behind its primary", "look for load"),
        (
            replication("fenced"),
            "PostgreSQL is fenced: another host has its databases now",
            "if it is to be a standby, set postgresql_standby_of",
        ),
        (replication(problem="no socket"), "replication: no socket", "systemctl status 'postgresql@*'"),
    ],
)
def test_a_problem_of_the_replication_comes_first_with_what_to_do(
    found: dict[str, object], text: str, solution: str
) -> None:
    status = document({"web1": result(), "db1": {"host": host(replication=found) | {"apps": []}}}, now=NOW)
    assert [line.split()[:2] for line in table(status)[1:]] == [["!", "db1"], ["web1", "shop"]]
    first, second, third = problem_lines(status)
    assert (first, second) == ("1 problem", f"  db1  {text}")
    assert third.strip().startswith(f"solution: {solution}")
    assert third.endswith("docs/databases.md#a-standby")


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (replication(), "primary: standby_db2 streaming, 0 B behind"),
        (replication(standbys=[]), "primary"),
        (
            replication(
                standbys=[
                    {"name": "standby_db2", "state": "streaming", "lag_bytes": 2048},
                    {"name": "standby_db3", "state": "not connected", "lag_bytes": None},
                ]
            ),
            "primary: standby_db2 streaming, 2.0 KiB behind, standby_db3 not connected",
        ),
        (replication("standby"), "standby: connected, 0 s behind"),
        (replication("standby", connected=False, lag_seconds=None), "standby: not connected"),
        (replication("fenced"), "fenced"),
    ],
)
def test_the_replication_of_a_host_is_a_line_below_the_table(found: dict[str, object], line: str) -> None:
    assert notes(document({"db1": result(replication=found)}, now=NOW)) == [f"db1: PostgreSQL: {line}"]
    assert notes(document({"db1": result()}, now=NOW)) == []


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
