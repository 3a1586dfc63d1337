"""The alert about slow apps, on the histogram that the hosts offer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from alert_rules import SEEN, SHOP, check_rules, firing, run
from ansible_collections.blueoctopus.site.plugins.module_utils.metrics import histogram
from ansible_collections.blueoctopus.site.plugins.module_utils.request_counters import BOUNDS, Latency, bound_of
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import machine_settings
from ansible_collections.blueoctopus.site.plugins.plugin_utils.validation import find_problem

Render = Callable[..., str]


def measured(requests: dict[float, int]) -> dict[str, str]:
    """The histogram of an app that gets this number of requests of each duration every 30 seconds."""
    counts = [0] * (len(BOUNDS) + 1)
    for seconds, number in requests.items():
        counts[bound_of(f"{seconds:.3f}".encode())[0]] += number
    lines = histogram("app_request_duration_seconds", "About.", {"shop": Latency(counts)})
    rows = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name.replace('app="shop"', SHOP): f"0+{number}x100" for name, number in rows}


@pytest.mark.needs("promtool")
@pytest.mark.parametrize(
    ("requests", "latency", "is_slow"),
    [
        ({1.05: 100}, 2, False),
        ({2.0: 100}, 2, False),
        ({0.1: 90, 2.4: 10}, 2, True),
        ({0.1: 95, 2.4: 5}, 2, False),
        ({0.1: 94, 2.4: 6}, 2, True),
        ({0.1: 94, 2.4: 6}, 2.0, True),
        ({0.1: 94, 2.4: 6}, 2.5, False),
        *(({bound: 100}, bound, False) for bound in BOUNDS),
        *(({bound + 0.001: 100}, bound, True) for bound in BOUNDS),
    ],
)
def test_an_app_is_slow_when_more_than_5_percent_of_its_requests_take_longer_than_the_bound(
    render: Render, tmp_path: Path, requests: dict[float, int], latency: float, is_slow: bool
) -> None:
    expected = [firing("AppSlow", "24m", {"app": "shop"} if is_slow else None)]
    rules = render("monitor", "rules.yml.j2", monitor_latency=latency)
    check_rules(tmp_path, rules, SEEN | measured(requests), expected)


@pytest.mark.needs("promtool")
def test_an_app_is_slow_also_where_the_exporter_writes_a_bound_with_a_decimal_point(
    render: Render, tmp_path: Path
) -> None:
    series = {name.replace('le="2"', 'le="2.0"'): values for name, values in measured({2.4: 100}).items()}
    expected = [firing("AppSlow", "24m", {"app": "shop"})]
    check_rules(tmp_path, render("monitor", "rules.yml.j2"), SEEN | series, expected)


@pytest.mark.needs("promtool")
def test_the_text_about_a_slow_app_names_the_share_and_the_bound(render: Render, tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(render("monitor", "rules.yml.j2", monitor_latency=0.5))
    inputs = [{"series": name, "values": values} for name, values in measured({0.1: 88, 0.7: 12}).items()]
    summary = "web1 shop: 12 % of the requests take longer than 0.5 s"
    todo = "Check for slow queries and a full processor. More workers or threads help if requests wait: keys workers, "
    texts = {"summary": summary, "todo": f"{todo}threads."}
    alert = {"exp_labels": {"host": "web1", "app": "shop"}, "exp_annotations": texts}
    case = {"alertname": "AppSlow", "eval_time": "24m", "exp_alerts": [alert]}
    test = {"interval": "30s", "input_series": inputs, "alert_rule_test": [case]}
    content = {"rule_files": ["rules.yml"], "tests": [test]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(content))
    run("promtool", "test", "rules", tmp_path / "test.yml")


def test_a_latency_that_no_counter_of_the_requests_has_is_refused() -> None:
    entry = machine_settings()["monitor_latency"]
    expected = f"one of {', '.join(f'{bound:g}' for bound in BOUNDS)}"
    for value in (1.5, 3, 11):
        problem = find_problem("monitor_latency", value, entry, "mon1")
        assert problem
        assert problem.expected == expected
    assert not any(find_problem("monitor_latency", value, entry, "mon1") for value in (*BOUNDS, 2))
