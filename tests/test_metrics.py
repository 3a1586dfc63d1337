"""The metrics of a host: each request is counted once, whatever happens to the log, and Prometheus accepts them."""

from __future__ import annotations

import gzip
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import request_counters
from ansible_collections.blueoctopus.site.plugins.module_utils.metrics import histogram, request_lines
from ansible_collections.blueoctopus.site.plugins.module_utils.request_counters import (
    BLOCK,
    BOUNDS,
    RELEASES_KEPT,
    Counters,
    count_requests,
)
from log_lines import V1, request
from metric_lines import lines_of
from nginx_site import Site, needs_nginx
from status_examples import EVENT, replication

PROJECT = Path(__file__).resolve().parent.parent
APPS = {"shop": V1, "blog": "20260102T000000Z-11111111bb"}
Render = Callable[..., str]


class Log:
    """A log that is measured now and then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "access.log"
        self.path.touch()
        self.state: dict[str, Any] = {}
        self.measure()

    def add(self, *lines: str | bytes, path: Path | None = None) -> None:
        with (path or self.path).open("ab") as file:
            file.writelines(line.encode() if isinstance(line, str) else line for line in lines)

    def rotate(self, create: bool = True) -> Path:
        former = self.folder / "access.log.1"
        self.path.rename(former)
        if create:
            self.path.touch()
        return former

    def measure(self, apps: dict[str, str] | None = None) -> Counters:
        found = count_requests(self.state, apps or APPS, self.folder)
        self.state = json.loads(json.dumps(found))
        return Counters.load(self.state)

    def count(self, app: str = "shop") -> int:
        """The requests of an app after one more measurement."""
        found = self.measure()
        total = sum(count for (name, _, _), count in found.requests.items() if name == app)
        assert total == sum(found.latencies[app].counts)
        return total


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


# --- counting ---------------------------------------------------------------------------------------------------------


def test_requests_are_counted_by_app_release_and_class_of_the_status(log: Log) -> None:
    log.add(
        *[request(1)] * 3,
        request(1, 404),
        request(1, 502, release=""),
        request(1, site="blog", release=APPS["blog"]),
        request(1, site=""),
    )
    counts = {key: count for key, count in log.measure().requests.items() if count}
    assert counts == {
        ("shop", V1, "2xx"): 3, ("shop", V1, "4xx"): 1, ("shop", "", "5xx"): 1, ("blog", APPS["blog"], "2xx"): 1
    }  # fmt: skip


def test_nginxs_own_answer_in_maintenance_is_no_error(log: Log) -> None:
    log.add(request(1, 503).replace('"upstream_status":"200"', '"upstream_status":""'), request(1, 503))
    found = log.measure().requests
    assert (found["shop", V1, "maintenance"], found["shop", V1, "5xx"]) == (1, 1)


def test_durations_are_in_the_classes_of_the_histogram(log: Log) -> None:
    log.add(*(request(1, seconds=seconds) for seconds in (0.0, 0.005, 0.006, 10.0, 10.001)), request(1, 101, 500.0))
    lines = histogram("x", "About.", {"shop": log.measure().latencies["shop"]})
    assert 'x_bucket{app="shop",le="0.005"} 2' in lines
    assert 'x_bucket{app="shop",le="0.01"} 3' in lines
    assert 'x_bucket{app="shop",le="10"} 4' in lines
    assert 'x_bucket{app="shop",le="+Inf"} 5' in lines
    assert 'x_count{app="shop"} 5' in lines
    assert 'x_sum{app="shop"} 20.012' in lines


def test_durations_that_another_version_has_counted_with_other_classes_are_forgotten(log: Log) -> None:
    log.add(request(1))
    assert log.count() == 1
    log.state["latencies"] = [[app, counts[1:], seconds] for app, counts, seconds in log.state["latencies"]]
    log.add(request(1, seconds=20.0))
    found = log.measure()
    assert found.latencies["shop"].counts == [*[0] * len(BOUNDS), 1]
    assert found.requests["shop", V1, "2xx"] == 2


def test_the_first_measurement_begins_at_the_end_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "access.log").write_text(request(1) * 5)
    assert Log(tmp_path).count() == 0


def test_counters_of_the_live_release_begin_with_zero_as_prometheus_ignores_the_first_value(log: Log) -> None:
    found = log.measure().requests
    assert found["shop", V1, "5xx"] == found["shop", "", "5xx"] == found["shop", V1, "2xx"] == 0


def test_each_line_is_counted_once_also_when_the_log_was_rotated_in_between(log: Log) -> None:
    log.add(request(1) * 2)
    assert log.count() == 2
    log.add(request(1) * 3)
    log.rotate()
    log.add(request(1) * 4)
    assert log.count() == 9
    assert log.count() == 9
    log.add(request(1))
    assert log.count() == 10


def test_nginx_may_still_write_to_the_former_file_after_a_rotation(log: Log) -> None:
    log.add(request(1))
    former = log.rotate()
    assert log.count() == 1
    log.add(request(1), path=former)
    log.add(request(1))
    assert log.count() == 3


def test_a_log_that_does_not_exist_for_a_moment_is_read_later(log: Log) -> None:
    log.add(request(1))
    log.rotate(create=False)
    assert log.count() == 1
    log.add(request(1))
    assert log.count() == 2


def test_a_log_that_was_rotated_and_compressed_is_left_out(log: Log) -> None:
    log.add(request(1) * 9)
    former = log.rotate()
    (log.folder / "access.log.2.gz").write_bytes(gzip.compress(former.read_bytes()))
    former.unlink()
    log.add(request(1))
    assert log.count() == 1


def test_a_log_that_was_emptied_is_read_from_its_start(log: Log) -> None:
    log.add(request(1) * 5)
    assert log.count() == 5
    log.path.write_text(request(1) * 2)
    assert log.count() == 7


def test_a_line_that_nginx_has_not_finished_is_counted_when_it_is_complete(log: Log) -> None:
    line = request(1)
    log.add(request(1), line[:100])
    assert log.count() == 1
    log.add(line[100:], request(1))
    assert log.count() == 3
    assert log.measure().ignored == 0


def test_garbage_is_ignored_and_counted(log: Log) -> None:
    good = request(1)
    bad: list[str | bytes] = [
        b"\x00\xff\x1f{}\n", good[:60] + "\n", good.replace('"status":200', '"status":abc'),
        good.replace('"seconds":0.020', '"seconds":nan'), good.replace('"status":200', '"status":999'),
    ]  # fmt: skip
    log.add(good, *bad, "\n", good)
    assert log.count() == 2
    assert log.measure().ignored == len(bad)


def test_a_line_that_is_longer_than_a_block_stops_nothing(log: Log) -> None:
    log.add(request(1), b"x" * (3 * BLOCK), b"\n", request(1))
    assert log.count() == 2


def test_what_a_client_writes_into_its_request_is_no_key(log: Log) -> None:
    log.add(request(1, uri='/?\\",\\"status\\":500,\\"release\\":\\"x'))
    assert log.measure().requests["shop", V1, "2xx"] == 1


def test_only_the_end_of_a_long_backlog_is_read(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_counters, "MOST_BYTES", 1000)
    log.add(request(1) * 100)
    assert 1 <= log.count() <= 3


def test_old_releases_and_apps_that_are_gone_are_forgotten(log: Log) -> None:
    for release in ("2025", *(f"2026010{number}" for number in range(10))):
        log.measure({"shop": release})
    log.add(request(1, site="blog"))
    found = log.measure({"shop": V1})
    releases = {release for _, release, _ in found.requests}
    assert {app for app, _, _ in found.requests} == {"shop"}
    assert len(releases - {"", "other"}) == RELEASES_KEPT
    assert "2025" not in releases
    assert V1 in releases
    assert "blog" not in found.latencies


def test_a_hundred_thousand_lines_take_less_than_a_second(log: Log) -> None:
    log.add(request(1) * 100_000)
    began = time.process_time()
    assert log.count() == 100_000
    assert time.process_time() - began < 1


# --- nginx itself -----------------------------------------------------------------------------------------------------


@needs_nginx
def test_the_lines_of_a_real_nginx_are_counted(site: Site) -> None:
    site.start({})
    log, app = site.folder / "log", {"shop": V1}
    state = count_requests({}, app, log)
    for path in ("/", "/?x=%22,%22status%22:500", '/".\\', "/.git/config"):
        site.ask(path.replace('"', "%22").replace("\\", "%5c"), Referer='"status":500,"release":"x"')

    def counted() -> dict[str, int]:
        found = Counters.load(count_requests(state, app, log))
        assert found.ignored == 0
        counts = {status: 0 for _, _, status in found.requests}
        for (_, _, status), count in found.requests.items():
            counts[status] += count
        return counts

    deadline = time.monotonic() + 10
    while sum(counted().values()) < 4 and time.monotonic() < deadline:  # nginx writes once a second
        time.sleep(0.1)
    assert counted() == {"2xx": 3, "3xx": 0, "4xx": 1, "5xx": 0}


# --- the metrics ------------------------------------------------------------------------------------------------------


def test_an_app_is_up_by_the_definition_of_the_status() -> None:
    assert 'app_up{app="shop"} 1' in lines_of()
    assert 'app_up{app="shop"} 0' in lines_of({"state": "failed"})
    assert 'app_up{app="shop"} 0' in lines_of({"workers": 0})
    assert 'app_process_up{app="shop",process="mail.1"} 0' in lines_of({"processes": {"mail.1": "failed"}})


def test_an_app_that_crashes_repeatedly_is_detected_while_it_runs() -> None:
    assert 'app_died_recently{app="shop"} 0' in lines_of()
    dying = lines_of({"died_recently": ["shop@1.service"]})
    assert {'app_up{app="shop"} 1', 'app_died_recently{app="shop"} 1'} <= set(dying)


def test_a_release_that_was_never_live_gets_no_counter_of_its_own(log: Log) -> None:
    log.add(request(1), request(1, 500, release="x, " + V1), *(request(1, release=f"r{n}") for n in range(3000)))
    found = log.measure()
    counted = {key[1:]: count for key, count in found.requests.items() if key[0] == "shop" and count}
    assert counted == {(V1, "2xx"): 1, ("other", "2xx"): 3000, ("other", "5xx"): 1}
    assert found.ignored == 0


def test_a_missing_certificate_has_no_days_left() -> None:
    assert 'app_certificate_remaining_seconds{app="shop"} 5270400' in lines_of()
    gone = {"method": "acme", "days_left": 0, "is_there": False, "problem": "refused"}
    assert 'app_certificate_remaining_seconds{app="shop"} 0' in lines_of({"certificate": gone})
    assert not any("certificate" in line for line in lines_of({"certificate": None}))


def test_only_the_last_deploy_counts() -> None:
    failed = {**EVENT, "result": "failed", "time": "2026-01-02T00:20:00Z"}
    assert 'app_last_deploy_success{app="shop"} 0' in lines_of(events=[("shop", EVENT), ("shop", failed)])
    lines = lines_of(events=[("shop", failed), ("shop", EVENT), ("gone", failed)])
    assert 'app_last_deploy_success{app="shop"} 1' in lines
    assert not any("gone" in line for line in lines)


def test_backups_that_are_bad_or_missing_are_not_good_and_a_host_without_any_has_no_metric() -> None:
    assert "host_backup_good 1" in lines_of()
    old = {"last_backup": "2026-01-01T00:00:00Z", "problem": "51 h old"}
    assert "host_backup_good 0" in lines_of(backup=old)
    assert "host_backup_good 0" in lines_of(backup={"last_backup": None, "problem": ""})
    assert not any("host_backup" in line for line in lines_of(backup=None))


def test_logs_that_are_not_sent_and_the_use_of_their_queue_are_metrics() -> None:
    logs = {
        "state": "active",
        "has_died": False,
        "waiting_since": "",
        "error": "",
        "waiting_bytes": 1,
        "space_bytes": 4,
    }
    assert not [line for line in lines_of(logs=None) if line.startswith("host_logs")]
    assert {"host_logs_sent 1", "host_logs_queue_percent 25"} <= {*lines_of(logs=logs)}
    for trouble in ({"state": "failed"}, {"has_died": True}, {"waiting_since": "2026-01-02T03:00:00Z"}):
        assert "host_logs_sent 0" in lines_of(logs=logs | trouble)


def test_the_replication_is_a_metric_on_its_hosts_alone() -> None:
    def found(replicated: dict[str, Any] | None) -> list[str]:
        return [line for line in lines_of(replication=replicated) if line.startswith("host_replication")]

    assert found(None) == []
    gone = {"name": "standby_db3", "state": "not connected", "lag_bytes": None}
    standbys = [{"name": "standby_db2", "state": "streaming", "lag_bytes": 5}, gone]
    assert found(replication(standbys=standbys)) == [
        "host_replication_fenced 0",
        'host_replication_connected{standby="standby_db2"} 1',
        'host_replication_connected{standby="standby_db3"} 0',
        'host_replication_lag_bytes{standby="standby_db2"} 5',
    ]
    late = replication("standby", lag_seconds=75.5, connected=False)
    lag = "host_replication_lag_seconds 75.5"
    assert found(late) == ["host_replication_fenced 0", "host_replication_connected 0", lag]
    assert found(replication("fenced")) == ["host_replication_fenced 1"]


def test_names_are_escaped() -> None:
    assert 'host_unit_failed{unit="a\\"b\\\\x2dc.service"} 1' in lines_of(failed_units=['a"b\\x2dc.service'])


@pytest.mark.needs("promtool")
def test_promtool_accepts_the_metrics(log: Log) -> None:
    log.add(request(1) * 3)
    events = [("shop", EVENT)]
    lines = [*request_lines(log.measure())]
    lines += [
        *lines_of(
            events=events, replication=replication(lag_seconds=1.5), failed_units=['a"b\\x2dc.service', "x.service"]
        )
    ]
    done = subprocess.run(
        ["promtool", "check", "metrics"], input="\n".join(lines) + "\n", capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
