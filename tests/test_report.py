"""The report: complete without other files, escaped, readable on a phone."""

from __future__ import annotations

import base64
import copy
import hashlib
import html.parser
import os
import re
import subprocess
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.plugin_utils.report import ceiling, line, page, timeline
from ansible_collections.blueoctopus.site.plugins.plugin_utils.status import document
from status_examples import APP, EVENT, LOST, NOW, REQUESTS, V1, V2, backup, result

HOSTILE = "\"'><script>document.title='taken'</script><img src=x onerror=document.title='taken'>{{ 7 * 7 }}</style>"


def day(requests: int = 50, errors: int = 0) -> dict[str, Any]:
    """A day of requests; none in the night."""
    rows: list[dict[str, Any]] = []
    for n in range(97):
        seen = 0 if 10 < n < 30 else requests + n * 7 % 13
        latency = {"p50": 0.02, "p95": 0.1 + n % 7 / 20} if seen else {"p50": None, "p95": None}
        failed = errors if n in (50, 51) else 0
        rows.append({"time": int(NOW - 86400 + 900 * n), "requests": seen, "errors": failed, **latency})
    total = sum(row["requests"] for row in rows)
    return {**REQUESTS, "requests": total, "errors": sum(row["errors"] for row in rows), "series": rows}


def history(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**EVENT, "by": "somebody@laptop", "from": "", "reason": ""} | change for change in changes]


def example() -> dict[str, Any]:
    """The status of a few hosts with several problems."""
    events = history(
        {"time": "2026-01-01T08:00:00Z"},
        {"time": "2026-01-01T15:00:00Z", "release": V2, "result": "failed", "reason": "web1: KeyError: 'SECRET_KEY'"},
        {"time": "2026-01-02T00:10:00Z", "action": "rollback"},
    )
    samples = [
        {"time": NOW - 86400 + 300 * n, "memory": {"shop": (150 + n / 8) * 2**20}, "disks": {"/": 1}}
        for n in range(288)
    ]
    shop = {"day": day(errors=20), "history": events}
    failed = [{"time": "2026-01-02T03:00:00+00:00", "status": 502, "method": "GET", "path": "/pay"}]
    alerts = {"checked": "2026-01-02T03:09:00Z", "delivery": {}, "samples": samples}
    blog = {"name": "blog", "state": "failed", "cause": "OSError: no database", "day": day(3), "history": []}
    return document(
        {
            "web1": result({**shop, "failed_requests": failed}, blog, alerts=alerts),
            "web2": result({**shop, "live": V2}, reboot_needed=True),
            "web3": LOST,
        },
        now=NOW,
    )


class Reader(html.parser.HTMLParser):
    """Collects the elements and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.style = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "style" and not self.style:
            self.style = data
        else:
            self.text += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def test_the_page_needs_no_other_file_and_no_script() -> None:
    text = page(example())
    found = read(text)
    assert not {"script", "link", "img", "iframe", "object", "form", "base"} & {tag for tag, _ in found.elements}
    names = {name for _, attributes in found.elements for name in attributes}
    assert not names & {"src", "href", "style", "action", "srcset", "xlink:href"}
    assert not [name for name in names if name.startswith("on")]
    assert not re.search(r"url\(|@import|https?:", text)


def test_the_policy_of_the_page_allows_its_own_style_only() -> None:
    found = read(page(example()))
    (policy,) = [a["content"] for _, a in found.elements if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(found.style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'"


def test_problems_hosts_releases_and_history_are_on_the_page() -> None:
    text = read(page(example())).text
    for words in (
        "web3",
        "No route to host",
        "down: the web service is in the state failed",
        V1,
        "rollback ok",
        "KeyError",
        "502",
    ):
        assert words in text, words
    assert "No problem" in read(page(document({"web1": result()}, now=NOW))).text


def test_a_host_is_marked_for_a_problem_of_the_backups_of_an_app() -> None:
    bad = backup(("shop", "drill", "no rows"))
    for found, is_marked in ((bad, True), (backup(), False)):
        _, _, hosts = page(document({"web1": result(backup=found)}, now=NOW)).partition("<h2>Hosts</h2>")
        assert ('class="card trouble"' in hosts) == is_marked


def test_values_of_clients_and_apps_are_escaped() -> None:
    def poisoned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key if key in APP or key in value else HOSTILE: poisoned(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [poisoned(inner) for inner in value]
        return HOSTILE if isinstance(value, str) else value

    app = poisoned(copy.deepcopy(APP)) | {"day": day(), "name": HOSTILE, "processes": {HOSTILE: HOSTILE}}
    app["history"] = history({"by": HOSTILE, "commit": HOSTILE, "reason": HOSTILE, "release": HOSTILE})
    app["failed_requests"] = [{"time": HOSTILE, "status": 500, "method": HOSTILE, "path": HOSTILE}]
    status = document({HOSTILE: result(app, failed_units=[HOSTILE]), "web2": {**LOST, "msg": HOSTILE}}, now=NOW)
    found = read(page(status))
    tags = {tag for tag, _ in found.elements}
    assert not {"script", "img"} & tags
    assert found.text.count("<script>document.title") > 10
    assert "{{ 7 * 7 }}" in found.text  # not evaluated


def test_every_plot_is_a_valid_picture_with_a_text() -> None:
    pictures = re.findall(r"<svg.*?</svg>", page(example()), re.DOTALL)
    assert len(pictures) == 3 + 1 + 3 + 3  # web1 has the memory of shop, too
    for picture in pictures:
        root = xml.etree.ElementTree.fromstring(picture)
        assert root.attrib["aria-label"]
        for path in root.iter("path"):
            assert re.fullmatch(r"(?:[ML]-?[\d.]+ -?[\d.]+|h0\.5|Z)*", path.attrib["d"])


def test_a_line_has_gaps_where_there_are_no_values() -> None:
    points = [(0.0, 1.0), (43200.0, None), (86400.0, 2.0)]
    assert line(points, 2, 0) == "M0.0 24.0h0.5M288.0 1.0h0.5"
    assert line([], 1, 0) == ""


@pytest.mark.parametrize(("most", "top"), [(0, 1), (0.03, 0.05), (1, 1), (7, 10), (130, 200), (1e9, 1e9)])
def test_the_top_of_a_plot_is_a_round_number(most: float, top: float) -> None:
    assert ceiling([most]) == pytest.approx(top)


def test_a_deploy_to_several_hosts_is_one_event() -> None:
    event = {**EVENT, "by": "x@y", "reason": ""}
    later = {**event, "time": "2026-01-02T00:10:09Z"}
    hosts = {"web1": {"apps": [{**APP, "history": [event]}]}, "web2": {"apps": [{**APP, "history": [later]}]}}
    (found,) = timeline(hosts, "shop")
    assert sorted(found["hosts"]) == ["web1", "web2"]
    again = {**event, "time": "2026-01-02T02:00:00Z"}
    hosts["web1"]["apps"][0]["history"] = [event, again]
    assert len(timeline(hosts, "shop")) == 2


@pytest.mark.slow
@pytest.mark.needs("chromium")
@pytest.mark.parametrize("width", [360, 1280])
def test_a_browser_shows_the_page_without_errors_and_without_scrolling_sideways(tmp_path: Path, width: int) -> None:
    file = tmp_path / "report.html"
    # A frame of the width of a phone, as the window of Chromium has a least width.
    file.write_text(page(example()))
    probe = "<script>onload = () => { const d = document.querySelector('iframe').contentDocument; document.title = "
    probe += "d.documentElement.scrollWidth + ' ' + getComputedStyle(d.querySelector('.card')).borderRadius }</script>"
    frame = f"<!doctype html><iframe src=report.html width={width} height=800 style='border:0'></iframe>{probe}"
    (tmp_path / "frame.html").write_text(frame)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=3000"]
    options += [
        f"--user-data-dir={tmp_path}/chromium",
        "--allow-file-access-from-files",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]
    done = subprocess.run(
        ["chromium", *options, "--dump-dom", (tmp_path / "frame.html").as_uri()],
        env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    title = re.search(r"<title>(\d+) (\S+)</title>", done.stdout)
    assert title, done.stderr
    assert int(title[1]) <= width
    assert title[2] == "8px"  # the style sheet was applied
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line], done.stderr
