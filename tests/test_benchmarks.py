"""script/bench: ratios and refusals, the report, and the competitors' files. Not the times themselves."""

from __future__ import annotations

import http.server
import json
import threading
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks import load, suite
from benchmarks.__main__ import RESULTS, main
from benchmarks.hosts import PROJECT, BenchError, Command, Done, Lab
from benchmarks.ratios import COMPARISONS, NAMES, Comparison, Ratio, Refusal, Results, compare, load_results
from benchmarks.report import page, plots, table, write_page
from benchmarks.ways import CAPISTRANO, PROVISIONING

FASTER = Comparison("fresh", "fresh machine", "shell", "s", target=1.15)


def measured(ours: list[float], theirs: list[float], measure: str = "fresh", against: str = "shell") -> Results:
    """Results of so many rounds, in which both ways reached the state."""
    results = Results(states={"ours": [], against: []})
    for way, values in (("ours", ours), (against, theirs)):
        for number, value in enumerate(values, 1):
            results.add(measure, way, number, value)
    return results


# --- ratios and refusals ----------------------------------------------------------------------------------------------


def test_a_ratio_is_the_median_of_the_ratios_of_the_rounds() -> None:
    found = compare(FASTER, measured([12, 30, 11], [10, 20, 10]), NAMES)
    assert found == Ratio(1.2, 1.1, 1.5, 3)


def test_only_rounds_with_both_ways_count() -> None:
    results = measured([12, 13, 14], [10, 10])
    assert compare(FASTER, results, NAMES) == Ratio(1.25, 1.2, 1.3, 2)


def test_a_way_in_another_state_is_refused_with_what_is_missing() -> None:
    results = measured([12, 13], [10, 10])
    results.add_state("shell", {"the firewall is active": False, "nginx is active": True})
    results.add_state("shell", {"the firewall is active": True, "nginx is active": True})  # a later round
    found = compare(FASTER, results, NAMES)
    assert isinstance(found, Refusal)
    assert "one script over SSH did not reach the same state: not true that the firewall is active" in found.reason


def test_a_way_whose_state_was_not_checked_is_refused() -> None:
    results = measured([12, 13], [10, 10])
    del results.states["ours"]
    assert compare(FASTER, results, NAMES) == Refusal("the state of this project was not checked")


def test_a_spread_that_hides_the_difference_is_refused() -> None:
    found = compare(FASTER, measured([9, 12, 13], [10, 10, 10]), NAMES)
    assert isinstance(found, Refusal)
    assert found.reason == "the spread hides the difference: the ratios of 3 rounds are from 0.90 to 1.30"


def test_ratios_close_to_one_show_that_two_ways_take_the_same_time() -> None:
    assert compare(FASTER, measured([95, 100], [100, 100]), NAMES) == Ratio(0.975, 0.95, 1, 2)


def test_one_round_is_refused() -> None:
    assert compare(FASTER, measured([12], [10]), NAMES) == Refusal("one round has no spread: measure at least two")


def test_a_way_that_failed_is_refused_with_the_reason() -> None:
    results = measured([12, 13], [10, 10])
    results.fail("fresh", "shell", "apt-get failed with 100")
    assert compare(FASTER, results, NAMES) == Refusal("one script over SSH failed: apt-get failed with 100")


@pytest.mark.parametrize(
    ("more_is_better", "median", "reached"),
    [(False, 1.1, True), (False, 1.2, False), (True, 1.2, True), (True, 1.1, False)],
)
def test_a_target_is_a_limit_in_its_direction(more_is_better: bool, median: float, reached: bool) -> None:
    comparison = Comparison("fresh", "", "shell", "s", more_is_better=more_is_better, target=1.15)
    assert Ratio(median, median, median, 2).reaches(comparison) is reached


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results = measured([12, 13], [10, 10])
    results.add_requests("ours", 100, 0)
    results.add_requests("ours", 50, 1)
    results.save(tmp_path / "results.json")
    assert load_results(tmp_path / "results.json") == results
    assert results.lost == {"ours": [150, 1]}


# --- the report -------------------------------------------------------------------------------------------------------


def test_a_refused_comparison_has_a_reason_and_no_ratio() -> None:
    results = measured([9, 12], [10, 10])
    for text in (table(results), page(results)):
        assert "refused" in text
        assert "fresh machine to live site, beside one script over SSH: the spread hides the difference" in text
        assert "1.05" not in text  # the median of the ratios


def test_the_page_has_ratios_first_then_values_and_the_computer() -> None:
    results = measured([6, 7], [10, 10])
    results.computer = {"memory": "24 GiB"}
    results.add_requests("ours", 1500, 0)
    text = page(results, "## Why\n\nBecause.\n")
    positions = [text.index(part) for part in ("0.65", "1,500", "| 6.5 s |", "## Why", "24 GiB", "How it is measured")]
    assert positions == sorted(positions)
    assert "| ≤ 1.15 reached |" in text


def test_a_way_that_was_measured_without_a_comparison_is_in_the_values() -> None:
    results = measured([4, 4.5], [10, 10], "deploy", "capistrano")
    assert "≤ 5 s reached" in page(results)


def test_plots_are_valid_and_readable_on_light_and_dark_pages() -> None:
    drawn = plots(measured([6, 7], [10, 12]))
    assert list(drawn) == ["fresh.svg"]
    root = ET.fromstring(drawn["fresh.svg"])
    assert "prefers-color-scheme: dark" in drawn["fresh.svg"]
    texts = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["fresh machine to live site (less is better)", "this project", "6.5 s", NAMES["shell"], "11.0 s"]
    bars = [float(e.attrib["width"]) for e in root.iter("{http://www.w3.org/2000/svg}rect") if "rx" in e.attrib][1:]
    assert bars[0] / bars[1] == pytest.approx(6.5 / 11, rel=0.01)


def test_plots_of_earlier_results_are_removed(tmp_path: Path) -> None:
    (tmp_path / "docs/performance").mkdir(parents=True)
    (tmp_path / "docs/performance/old.svg").write_text("")
    write_page(tmp_path, measured([6, 7], [10, 12]))
    assert [path.name for path in (tmp_path / "docs/performance").iterdir()] == ["fresh.svg"]
    assert "performance/fresh.svg" in (tmp_path / "docs/performance.md").read_text()


def test_the_page_is_that_of_the_last_results(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "benchmarks").mkdir()
    if (PROJECT / "benchmarks/notes.md").exists():
        (tmp_path / "benchmarks/notes.md").write_text((PROJECT / "benchmarks/notes.md").read_text())
    write_page(tmp_path, load_results(RESULTS))
    for path in [file for file in (tmp_path / "docs").rglob("*") if file.is_file()]:
        assert (PROJECT / path.relative_to(tmp_path)).read_text() == path.read_text(), "run script/bench --report"


def test_every_way_of_the_comparisons_has_a_name() -> None:
    assert {way for c in COMPARISONS for way in (c.way, c.against)} <= set(NAMES)


# --- rounds -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def dry(tmp_path: Path) -> Lab:
    """A lab that runs nothing."""
    return Lab(tmp_path, dry=True)


def test_each_round_measures_everything_in_another_order(dry: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    results = Results()
    suite.Suite(dry, results, suite.SECTIONS).run(2)
    ran = capsys.readouterr().out
    programs = {
        "ours": "playbooks/site.yml",
        "shell": "shell/run.sh",
        "pyinfra": "bin/pyinfra",
        "ansible": " site.yml -i ",
    }
    for program in [*programs.values(), "capistrano/deploy.sh", "capistrano/rollback.sh", "playbooks/rollback.yml"]:
        assert ran.count(program) >= 2
    assert set(results.samples["fresh"]) == {way.name for way in PROVISIONING}
    assert set(results.samples["hosts"]) == {"hosts 1", "hosts 8", "hosts 12"}
    booted = [line.split()[3] for line in ran.splitlines() if "script/machine up" in line]
    ways = [name for name in booted if not name.startswith("bench-h")]
    assert sorted(ways[:4]) == sorted(ways[4:])
    assert ways[:4] != ways[4:]


class Broken(Lab):
    """A lab in which commands with a certain word fail."""

    word = "bin/pyinfra"

    def run(self, command: Command, check: bool = True) -> Done:
        if self.word in " ".join(command.argv):
            raise BenchError("it failed\nwith output")
        return super().run(command, check)


def test_a_way_that_fails_is_recorded_and_the_others_are_measured(tmp_path: Path) -> None:
    results = Results()
    suite.Suite(Broken(tmp_path, dry=True), results, ("fresh", "unchanged")).run(1)
    assert results.failures == {
        "fresh": {"pyinfra": "it failed"},
        "unchanged": {"pyinfra": "no machine could be set up with pyinfra"},
    }
    assert set(results.samples["unchanged"]) == {"ours", "shell", "ansible"}


def test_machines_are_removed_also_after_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), Lab(tmp_path, dry=True) as lab:  # noqa: PT012
        lab.up("bench-a")
        lab.up("bench-b")
        raise RuntimeError
    assert "script/machine down bench-a bench-b" in capsys.readouterr().out


def test_a_rollback_alone_first_deploys_a_version_to_return_from(dry: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    suite.Suite(dry, Results(), ("rollback",)).run(1)
    ran = capsys.readouterr().out
    assert ran.index("capistrano/deploy.sh") < ran.index("capistrano/rollback.sh")
    assert CAPISTRANO.base == "shell"


def test_a_dry_run_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before = (PROJECT / "docs/performance.md").read_text()
    assert main(["--dry-run", "--rounds", "1", "--only", "serving"]) == 0
    ran = capsys.readouterr().out
    assert "http://192.0.2.10:8090/slow" in ran
    assert "shell/run.sh" not in ran
    assert (PROJECT / "docs/performance.md").read_text() == before


def test_an_unknown_section_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "fresh,speed"])
    assert "unknown: speed. Known are fresh, unchanged, deploy, rollback, hosts, serving." in capsys.readouterr().err


# --- load -------------------------------------------------------------------------------------------------------------


@pytest.mark.needs("wrk")
def test_load_during_a_deploy_counts_failed_requests(tmp_path: Path) -> None:
    posts: list[str] = []
    enough = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        """Answers GET, and fails at POST."""

        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200 if self.command == "GET" else 502)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            self.do_GET()
            posts.append(self.path)
            if len(posts) > 10:
                enough.set()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # wrk closes its connections
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with load.steady(Lab(tmp_path), f"http://127.0.0.1:{server.server_port}/", connections=2, pause=5) as sent:
        assert enough.wait(120)
    server.shutdown()
    server.server_close()
    assert 0 < sent.status < sent.answered
    assert sent.status == pytest.approx(len(posts), abs=2)


@pytest.mark.parametrize("output", ["", "Running 5s test\n", json.dumps({"unknown": 1})])
def test_output_of_the_load_generator_without_results_is_an_error(output: str) -> None:
    with pytest.raises(BenchError, match="printed no results"):
        load.parsed(output)


def test_settings_of_the_caller_do_not_reach_the_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_PIPELINING", "true")
    monkeypatch.setenv("VIRTUAL_ENV", "/elsewhere")
    environment = Lab(tmp_path).run(Command(("env",), environment={"KEY": "x"})).output.splitlines()
    assert "KEY=x" in environment
    assert not [line for line in environment if line.startswith(("ANSIBLE_PIPELINING", "VIRTUAL_ENV"))]
