"""Requests, errors and latency from nginx's log: bounded, whatever the log contains."""

from __future__ import annotations

import gzip
import os
import random
import resource
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import traffic
from ansible_collections.blueoctopus.site.plugins.module_utils.traffic import Bucket, Traffic, read_traffic
from log_lines import NOW, request


def write(path: Path, *lines: str, modified: float = NOW) -> None:
    """Write a log file."""
    path.write_text("".join(lines))
    os.utime(path, (modified, modified))


def read(folder: Path, since: float = 300, **options: Any) -> Traffic:
    return read_traffic(["shop", "blog"], NOW - since, NOW, options.pop("step", 300), 5, folder)


def test_requests_errors_and_latency_are_counted_for_each_site(tmp_path: Path) -> None:
    lines = [request(n, 500 if n % 10 == 0 else 200, 0.5 if n < 20 else 0.02) for n in range(100, 0, -1)]
    write(tmp_path / "access.log", *lines, request(5, site="blog"), request(4, site="other"))
    seen = read(tmp_path).summary("shop")
    assert (seen["requests"], seen["errors"], seen["per_minute"], seen["errors_per_minute"]) == (100, 10, 20, 2)
    assert seen["p50_seconds"] == pytest.approx(0.02, rel=0.06)
    assert seen["p95_seconds"] == pytest.approx(0.5, rel=0.06)
    assert read(tmp_path).summary("blog")["requests"] == 1


def test_nginxs_own_answer_in_maintenance_is_no_error_but_that_of_the_app_is(tmp_path: Path) -> None:
    own = request(5, 503).replace('"upstream_status":"200"', '"upstream_status":""')
    write(tmp_path / "access.log", own, own.replace('"status":503', '"status":500'), request(4, 503))
    seen = read(tmp_path).summary("shop")
    assert (seen["requests"], seen["errors"]) == (3, 2)


def test_a_host_without_a_log_has_no_requests(tmp_path: Path) -> None:
    seen = read(tmp_path / "absent").summary("shop")
    assert (seen["requests"], seen["p95_seconds"]) == (0, None)


def test_only_the_requested_period_is_counted(tmp_path: Path) -> None:
    write(tmp_path / "access.log", request(301), request(299), request(1), request(-120))
    assert read(tmp_path).summary("shop")["requests"] == 2


def test_rotated_and_compressed_files_are_read_until_the_start_of_the_period(tmp_path: Path) -> None:
    write(tmp_path / "access.log", request(10))
    write(tmp_path / "access.log.1", request(4000), request(3000))
    with gzip.open(tmp_path / "access.log.2.gz", "wt") as file:
        file.write(request(9000) + request(6000, 502))
    os.utime(tmp_path / "access.log.2.gz", (NOW - 5000, NOW - 5000))
    write(tmp_path / "access.log.3", request(9), modified=NOW - 90000)  # older than the period
    seen = read(tmp_path, 8000)
    assert (seen.summary("shop")["requests"], seen.summary("shop")["errors"]) == (4, 1)


def test_a_file_that_is_rotated_meanwhile_is_counted_once(tmp_path: Path) -> None:
    write(tmp_path / "access.log", request(10))
    os.link(tmp_path / "access.log", tmp_path / "access.log.1")
    assert read(tmp_path).summary("shop")["requests"] == 1


def test_a_compressed_file_that_is_damaged_is_read_as_far_as_possible(tmp_path: Path) -> None:
    packed = gzip.compress((request(10) * 5000).encode())
    (tmp_path / "access.log.2.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "access.log.3.gz").write_bytes(b"no archive")
    os.utime(tmp_path / "access.log.2.gz", (NOW, NOW))
    os.utime(tmp_path / "access.log.3.gz", (NOW, NOW))
    write(tmp_path / "access.log", request(10))
    assert read(tmp_path).summary("shop")["requests"] >= 1


@pytest.mark.parametrize(
    "garbage",
    [
        "\n",
        "\x00" * 5000 + "\n",
        "no JSON\n",
        '{"time":"2026-01-02T03:09:59+00:00","site":"shop"\n',
        '{"time":"2026-13-99T03:09:59+00:00","site":"shop","status":200,"bytes":1,"seconds":0.1,\n',
        '{"time":"2026-01-02T03:09:59+00:00","site":"shop","status":abc,"bytes":1,"seconds":0.1,}\n',
        '{"time":"2026-01-02T03:09:59+00:00","site":"shop","status":200,"bytes":1,"seconds":nope,}\n',
        '{"time":"2026-01-02T03:09:59+00:00","site":"shop","status":200,"bytes":1,"seconds":nan,}\n',
        '{"time":"2026-01-02T03:09:59+00:00","site":"shop","status":200,"bytes":1,"seconds":inf,}\n',
        '{"time":"2026-01-02T03:09:59+00:00","site":"shop","status":200,"bytes":1,"seconds":1e999,}\n',
        '{"time":"2026-01-02T03:09:59+00:00","site":"shop","status":200,"bytes":1,"seconds":1e308,}\n',
        "é" * 70000 + "\n",
        "x" * (3 << 20) + "\n",
    ],
)
def test_garbage_is_ignored(tmp_path: Path, garbage: str) -> None:
    write(tmp_path / "access.log", request(20), garbage, request(10), garbage[:-1])
    assert read(tmp_path).summary("shop")["requests"] == 2


def test_a_client_cannot_forge_the_status_of_its_request(tmp_path: Path) -> None:
    # As nginx escapes the path /","status":500,"seconds":9,"
    forged = r"/\",\"status\":500,\"bytes\":1,\"seconds\":9,\""
    write(tmp_path / "access.log", *[request(n, uri=forged) for n in range(9, 0, -1)])
    seen = read(tmp_path).summary("shop")
    assert (seen["requests"], seen["errors"]) == (9, 0)
    assert seen["p95_seconds"] < 0.1


def test_a_clock_that_was_set_does_not_end_the_reading(tmp_path: Path) -> None:
    write(tmp_path / "access.log", request(200), request(90000), request(-90000), request(100))
    assert read(tmp_path).summary("shop")["requests"] == 2


def test_websockets_count_as_requests_and_not_in_the_latency(tmp_path: Path) -> None:
    write(tmp_path / "access.log", request(20, 101, 290), request(10))
    seen = read(tmp_path).summary("shop")
    assert seen["requests"] == 2
    assert seen["p95_seconds"] < 0.1


def test_a_reading_that_takes_too_long_reports_the_part_that_it_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "BLOCK", 1 << 14)
    write(tmp_path / "access.log", *[request(n) for n in range(280, 0, -1)])
    seen = read_traffic(["shop"], NOW - 300, NOW, 300, -1, tmp_path).summary("shop")
    assert 0 < seen["requests"] < 280
    assert seen["per_minute"] == pytest.approx(60, rel=0.1)


def test_the_series_has_a_value_for_each_step_also_without_requests(tmp_path: Path) -> None:
    write(tmp_path / "access.log", request(3000, 500), request(10))
    series = read(tmp_path, 3600, step=900).series("shop")
    assert [row["requests"] for row in series] == [0, 1, 0, 0, 1]
    assert [row["errors"] for row in series] == [0, 1, 0, 0, 0]
    assert [row["p95"] is None for row in series] == [True, False, True, True, False]


def test_the_newest_failed_requests_are_kept_without_their_query(tmp_path: Path) -> None:
    write(tmp_path / "access.log", *[request(50 - n, 500, uri=f"/pay/{n}?token=squid") for n in range(20)])
    failed = read(tmp_path).failed["shop"]
    assert [entry["path"] for entry in failed] == [f"/pay/{n}" for n in (19, 18, 17, 16, 15)]


def test_quantiles_of_few_requests() -> None:
    assert Bucket().quantile(0.95) is None
    assert Bucket(latencies={0: 1}).quantile(0.95) == 0.001


def test_a_day_with_a_million_requests_is_read_in_ten_seconds_and_little_memory(tmp_path: Path) -> None:
    # A tenth of it, so that the test is fast; docs/measurements.md has the whole.
    random.seed(1)
    count, now = 100_000, NOW
    with (tmp_path / "access.log").open("w") as file:
        for n in range(count):
            file.write(request(86300 * (1 - n / count), random.choice([200] * 97 + [500]), random.expovariate(20)))
    os.utime(tmp_path / "access.log", (now, now))
    began, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen = read_traffic(["shop"], now - 86400, now, 900, 60, tmp_path)
    assert seen.summary("shop")["requests"] == count
    assert time.process_time() - began < 1.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 50_000  # KiB
