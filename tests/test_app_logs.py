"""The log of an app, from the journal and nginx: backwards, up to a limit, without control characters."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.filter.apps import hosts_with_app, log_lines
from ansible_collections.blueoctopus.site.plugins.module_utils.logs import (
    BLOCK,
    Entry,
    app_paths,
    count_outcomes,
    decode,
    entry,
    newest,
    parse_error,
    parse_request,
    parse_since,
    read_back,
    reversed_lines,
    rotated,
    server_names,
    unit_source,
)
from ansible_collections.blueoctopus.site.plugins.modules import app_logs
from modules import Programs, call


def request_line(minute: int, site: str = "shop", uri: str = "/") -> str:
    seen = {"time": f"2026-01-02T03:{minute:02}:00+00:00", "site": site, "client": "192.0.2.1", "method": "GET"}
    return json.dumps(seen | {"uri": uri, "status": 200, "seconds": 0.012}, separators=(",", ":"))


def numbered(*times: float) -> Iterator[Entry]:
    yield from (entry(time, "web", f"line {time}") for time in times)


# --- the module -------------------------------------------------------------------------------------------------------


@pytest.fixture
def read(tmp_path: Path, programs: Programs) -> Callable[..., dict[str, Any]]:
    """Run the module on a host with an entry of the app in the journal, and later requests of two apps."""
    programs.prints(
        "journalctl --reverse",
        json.dumps(
            {"__REALTIME_TIMESTAMP": "1767323000000000", "_SYSTEMD_UNIT": "shop@V.service", "MESSAGE": "KeyError"}
        ),
    )
    (tmp_path / "access.log").write_text(f"{request_line(15)}\n{request_line(16, 'blog')}\n")
    folders: dict[str, Any] = {
        "root": str(tmp_path / "shop"),
        "nginx_logs": str(tmp_path),
        "nginx_paths": str(tmp_path / "paths"),
    }
    return lambda **options: call(app_logs, name="shop", **folders, since="2026-01-02 03:00 UTC", **options)


@pytest.mark.needs("systemd-analyze")
def test_entries_of_the_app_in_the_journal_and_its_requests_are_returned_in_order(
    read: Callable[..., dict[str, Any]],
) -> None:
    result = read()
    assert [(found["source"], found["text"]) for found in result["entries"]] == [
        ("web", "KeyError"),
        ("nginx", "200 GET / 0.012 s 192.0.2.1"),
    ]
    assert result["complete"]
    assert [found["source"] for found in read(grep="keyerror")["entries"]] == ["web"]
    newest_one = read(lines=1)
    assert ([found["source"] for found in newest_one["entries"]], newest_one["complete"]) == (["nginx"], False)


@pytest.mark.needs("systemd-analyze")
def test_an_expression_or_a_time_that_is_invalid_is_an_error_with_an_example(tmp_path: Path) -> None:
    wrong = call(app_logs, name="shop", root=str(tmp_path), grep="(")["msg"]
    assert wrong.startswith("'(' is not a regular expression:")
    wrong = call(app_logs, name="shop", root=str(tmp_path), since="lunch")["msg"]
    assert wrong.startswith("'lunch' is not a time. Write it as journalctl does, for example: -e since='1 hour ago'")


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_file_of_any_size_is_read_backwards(tmp_path: Path, end: str) -> None:
    lines = [f"line {number} {'é' * (number % 90)}" for number in range(4000)]
    path = tmp_path / "access.log"
    path.write_text("\n".join(lines) + end)
    assert path.stat().st_size > 2 * BLOCK
    assert list(reversed_lines(path)) == lines[::-1]


def test_rotated_files_follow_the_current_one(tmp_path: Path) -> None:
    for name in ("access.log", "access.log.1", "access.log.2.gz", "access.log.10.gz", "error.log", "access.log.bak"):
        (tmp_path / name).touch()
    names = [path.name for path in rotated(tmp_path, "access.log")]
    assert names == ["access.log", "access.log.1", "access.log.2.gz", "access.log.10.gz"]


def test_requests_are_read_until_the_start_of_the_log_also_from_a_compressed_file(tmp_path: Path) -> None:
    (tmp_path / "access.log").write_text(request_line(30) + "\n" + request_line(31, "blog") + "\n")
    with gzip.open(tmp_path / "access.log.1.gz", "wt") as file:
        file.write("".join(f"{request_line(minute)}\n" for minute in (10, 20)))
    since = 1767323700.0  # 2026-01-02 03:15
    found = read_back(tmp_path, "access.log", since, lambda line: parse_request("shop", line))
    assert [e["time"] for e in found] == [1767324600.0, 1767324000.0]


def outcome_line(second: int, status: int, release: str = "new", agent: str = "browser") -> str:
    seen = {"time": f"2026-01-02T03:00:{second:02}+00:00", "site": "shop", "status": status, "user_agent": agent}
    return json.dumps(seen | {"release": release}, separators=(",", ":")) + "\n"


def test_requests_are_counted_before_the_switch_and_for_the_new_release(tmp_path: Path) -> None:
    lines = [
        outcome_line(1, 500, "old"),  # too early
        outcome_line(11, 500),  # an earlier attempt
        outcome_line(12, 200, "old"),
        outcome_line(13, 502, ""),
        outcome_line(21, 200, "old"),  # began before the switch
        outcome_line(21, 500),
        outcome_line(22, 200),
        outcome_line(22, 504, ""),
        outcome_line(23, 500, agent="health-check"),
        outcome_line(23, 200).replace("shop", "blog"),
        "garbage\n",
    ]
    (tmp_path / "access.log").write_text("".join(lines))
    switched = 1767322820.0  # 2026-01-02 03:00:20
    assert count_outcomes(tmp_path, "shop", "new", switched, 15) == [(3, 1), (3, 2)]


def test_a_file_that_ended_before_the_start_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text(request_line(30) + "\n")
    os.utime(path, (1000, 1000))
    assert list(read_back(tmp_path, "access.log", 2000, lambda line: parse_request("shop", line))) == []


@pytest.mark.parametrize("line", ["", "garbage", '{"site":"shop"', '{"site":"shop","time":"never"}', '"site":"shop"'])
def test_damaged_lines_are_skipped(line: str) -> None:
    assert parse_request("shop", line) is None


def test_an_error_of_nginx_belongs_to_the_site_of_its_server(tmp_path: Path) -> None:
    site = tmp_path / "site.conf"
    site.write_text(
        "server {\n  server_name shop.example;\n}\nserver {\n    server_name www.shop.example b.example;\n}\n"
    )
    names = server_names(site)
    assert names == {"shop.example", "www.shop.example"}
    line = '2026/01/02 03:04:05 [error] 12#12: *7 upstream timed out, client: 192.0.2.1, server: {}, request: "GET /"'
    found = parse_error("shop", names, {}, line.format("shop.example"))
    assert found
    assert found["text"].startswith("error: *7 upstream timed out")
    assert parse_error("shop", names, {}, line.format("blog.example")) is None


@pytest.mark.parametrize(
    ("uri", "app"),
    [
        ("/shop/cart?from=/x", "shop"),
        ("/%73hop/", "shop"),
        ("/shop/admin/", "admin"),
        ("/shops", "blog"),
        ("/?/shop/", "blog"),
    ],
)
def test_an_error_below_a_path_belongs_to_the_app_of_that_path(
    render: Callable[..., str], tmp_path: Path, uri: str, app: str
) -> None:
    nginx = dict.fromkeys(("challenge", "error_pages", "error_url", "errors", "paths", "site", "websockets"), "/x")
    for name, path in (("shop", "/shop/"), ("admin", "/shop/admin/")):
        (tmp_path / f"{name}.conf").mkdir()
        text = render("app", "site-path.conf.j2", {"name": name, "path": path}, app_nginx=nginx)
        (tmp_path / f"{name}.conf/blog.example.conf").write_text(text)
    paths = app_paths(tmp_path)
    line = "2026/01/02 03:04:05 [error] 12#12: *7 upstream timed out, client: 192.0.2.1, server: blog.example, "
    line += f'request: "GET {uri} HTTP/1.1", upstream: "http://unix:/x:/", host: "blog.example"'
    servers = {"blog": {"blog.example"}, "shop": set(), "admin": set()}
    assert [name for name, names in servers.items() if parse_error(name, names, paths, line)] == [app]


def test_the_newest_entries_of_all_sources_come_in_order_of_time() -> None:
    entries, complete = newest([numbered(9, 5, 1), numbered(8, 7)], re.compile(""), 3)
    assert [e["time"] for e in entries] == [7, 8, 9]
    assert not complete


def test_an_expression_chooses_entries_before_they_are_counted() -> None:
    entries, complete = newest([numbered(9, 5, 1), numbered(8, 7)], re.compile("line [15]"), 2)
    assert [e["time"] for e in entries] == [1, 5]
    assert complete


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert entry(0, "web", "a\x1b[2Jb\tc\n\x07")["text"] == "a\\x1b[2Jb\tc\n\\x07"


@pytest.mark.parametrize(
    ("unit", "source"),
    [
        ("shop@20260102T030405Z-1f0c2d3e4b.service", "web"),
        ("shop.mail.2@20260102T030405Z-1f0c2d3e4b.service", "mail"),
        ("shop.release-command@20260102T030405Z-1f0c2d3e4b.service", "release-command"),
        ("release-build-shop.0a1b2c3d.service", "build"),
    ],
)
def test_the_source_is_the_process_of_the_app(unit: str, source: str) -> None:
    assert unit_source("shop", unit) == source


@pytest.mark.parametrize(
    ("message", "text"), [("a", "a"), ([104, 105], "hi"), (["a", [104, 105], None], "a\nhi\nNone"), ([255], "\ufffd")]
)
def test_a_message_of_any_kind_is_shown(message: object, text: str) -> None:
    assert decode(message) == text


@pytest.mark.parametrize("text", ["1 hour ago", "-10min", "today", "2026-01-02 03:04"])
def test_times_are_written_as_for_journalctl(text: str) -> None:
    assert parse_since(text) > 0


def test_an_invalid_time_is_refused() -> None:
    with pytest.raises(ValueError, match="sometimes"):
        parse_since("sometimes")


# --- on the control node ------------------------------------------------------------------------------------------


def log(*entries: Entry, complete: bool = True) -> dict[str, Any]:
    return {"entries": list(entries), "complete": complete}


def test_the_lines_of_all_hosts_are_merged_by_time() -> None:
    lines = log_lines(
        {"web1": log(entry(2, "web", "b")), "web12": log(entry(1, "nginx", "a\nmore"), entry(3, "web", "c"))}, "shop"
    )
    assert lines == [
        "1970-01-01 00:00:01.000  web12  nginx  a",
        "                                       more",
        "1970-01-01 00:00:02.000  web1   web    b",
        "1970-01-01 00:00:03.000  web12  web    c",
    ]


def test_one_host_is_not_named_in_each_line() -> None:
    assert log_lines({"web1": log(entry(2, "web", "b"))}, "shop") == ["1970-01-01 00:00:02.000  web  b"]


def test_a_log_ends_with_the_solution_of_each_known_error() -> None:
    error = "OSError: [Errno 30] Read-only file system: 'uploads/x'"
    entries = [entry(1, "web", error), entry(2, "web", error), entry(3, "systemd", "Suppressed 7 messages from shop@1")]
    lines = log_lines({"web1": log(*entries, entry(4, "nginx", "GET /?No module named 'magic'"))}, "shop")
    assert len(lines) == 6
    assert lines[4].startswith("solution: The app can't write to uploads/x")
    assert "shared_paths of shop" in lines[4]
    assert lines[5].startswith("solution: shop logs more than the journal accepts")


def test_missing_and_omitted_entries_are_reported() -> None:
    assert "-e since=" in log_lines({"web1": log()}, "shop")[0]
    assert "-e lines=" in log_lines({"web1": log(entry(2, "web", "b"), complete=False)}, "shop")[0]


def test_the_hosts_of_an_app_are_those_with_it_in_their_inventory() -> None:
    hostvars = {"web1": {"apps": [{"name": "shop"}]}, "web2": {"apps": [{"name": "blog"}]}}
    assert hosts_with_app(hostvars, ["web1", "web2"], "blog") == ["web2"]
