"""Alerts of the monitor: promtool evaluates the rules on series."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

SHOP = 'host="web1",app="shop"'
UP = 'up{host="web1",job="node"}'
MEASURED = 'host_measured_timestamp_seconds{host="web1"}'
TIME = 'node_time_seconds{host="web1"}'
STORED = 'up{host="monitor",job="prometheus"}'
SEEN = {STORED: "1x200", UP: "1x200", TIME: "0+30x200", MEASURED: "0+30x200"}


def run(*command: str | Path) -> None:
    """Run a program, which must succeed."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def firing(alert: str, at: str, *labels: dict[str, str] | None) -> dict[str, Any]:
    """What is expected of an alert at a time: that it fires with each of some sets of labels; None: does not fire."""
    expected = []
    for found in labels:
        if found is not None:
            shown = {"alertname": alert, "alertstate": "firing", "host": "web1"} | found
            sets = ", ".join(f'{key}="{value}"' for key, value in shown.items())
            expected.append({"labels": f"ALERTS{{{sets}}}", "value": 1})
    expression = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    return {"expr": expression, "eval_time": at, "exp_samples": expected}


def check_rules(folder: Path, rules: str, series: dict[str, str], expected: list[dict[str, Any]]) -> None:
    """Let promtool evaluate the rules."""
    (folder / "rules.yml").write_text(rules)
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": "30s", "input_series": inputs, "promql_expr_test": expected}
    content = {"rule_files": ["rules.yml"], "evaluation_interval": "30s", "tests": [test]}
    (folder / "test.yml").write_text(yaml.safe_dump(content))
    run("promtool", "test", "rules", folder / "test.yml")
