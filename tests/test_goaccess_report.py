"""The report of goaccess: its requests, and what clients have sent in it."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.visits import ReportError, report, site_lines
from log_lines import NOW, request
from plays import run_play

goaccess = pytest.mark.needs("goaccess")


def write(folder: Path, name: str, *lines: str) -> None:
    path, text = folder / name, "".join(lines).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)


def count(page: bytes, name: str) -> int:
    """A number in the data of the page."""
    found = re.search(rb'"%s": (\d+)' % name.encode(), page)
    assert found
    return int(found[1])


def test_the_requests_of_an_app_come_from_all_files_the_oldest_first(tmp_path: Path) -> None:
    write(tmp_path, "access.log", request(20, uri="/3"), request(19, site="blog"), "garbage\n", request(9, uri="/4"))
    write(tmp_path, "access.log.1", request(4000, uri="/2"))
    write(tmp_path, "access.log.2.gz", request(90000, uri="/0"), request(80000, uri="/1"))
    (tmp_path / "access.log.3.gz").write_bytes(b"no archive")
    health = request(5).replace(
        "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "health-check"
    )
    with (tmp_path / "access.log").open("a") as file:
        file.write(health + request(4)[:50])
    found = [json.loads(line) for line in site_lines(tmp_path, "shop", NOW - 85000)]
    assert [line["uri"] for line in found] == ["/1", "/2", "/3", "/4"]
    assert found[-1]["time"] == "2026-01-02T03:09:51"


@goaccess
def test_the_page_needs_no_other_file_and_shows_no_whole_address(tmp_path: Path) -> None:
    write(tmp_path, "access.log", *[request(n, 500 if n == 3 else 200, uri=f"/{n % 2}?q=1") for n in range(100, 0, -1)])
    page = report("shop", site_lines(tmp_path, "shop", NOW - 1000), sandbox=[])
    assert count(page, "valid_requests") == 100
    assert count(page, "failed_requests") == 0
    assert b"<title>shop" in page
    assert not re.search(rb'<(script|img|iframe)[^>]+src=|<link[^>]+href="?http|@import|url\("?http', page)
    assert b"192.0.2.0" in page
    assert b"192.0.2.1" not in page


@goaccess
def test_what_clients_send_is_escaped(tmp_path: Path) -> None:
    attack = "</script><script>document.title='x'</script><img src=x onerror=alert(1)>"
    line = json.loads(request(5)) | {"uri": f"/{attack}", "referer": f"https://x/{attack}", "user_agent": attack}
    # Whatever does not have nginx's form is left out.
    write(tmp_path, "access.log", json.dumps(line, separators=(",", ":")) + "\n", request(4).replace('"GET"', "GET"))
    page = report("shop", site_lines(tmp_path, "shop", NOW - 1000), sandbox=[])
    assert count(page, "valid_requests") == 1
    assert b"onerror=alert(1)&gt;" in page
    assert b"<script>document.title" not in page
    assert b"<img src=x" not in page


@goaccess
def test_without_requests_there_is_no_report(tmp_path: Path) -> None:
    write(tmp_path, "access.log", request(5, site="blog"))
    with pytest.raises(ReportError, match="no request"):
        report("shop", site_lines(tmp_path, "shop", NOW - 1000), sandbox=[])


@pytest.mark.slow
@goaccess
def test_the_page_is_written_on_the_control_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "access.log", request(5))
    # No systemd runs where the tests do.
    (tmp_path / "systemd-run").write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift; exec "$@"\n')
    (tmp_path / "systemd-run").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    module = f"""
        - name: Write the report
          blueoctopus.site.goaccess_report: {{name: shop, dest: DEST, nginx_logs: {tmp_path}}}
    """
    output = run_play(tmp_path, module.replace("DEST", "visits.html"))
    assert "failed=0" in output, output
    assert b"<title>shop" in (tmp_path / "visits.html").read_bytes()
    output = run_play(tmp_path, module.replace("DEST", "none/visits.html"))
    assert "The file none/visits.html can't be written: No such file or directory" in " ".join(output.split()), output
