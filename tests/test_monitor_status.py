"""The status of a monitor: what Prometheus tells about alerts that could not be sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.blueoctopus.site.plugins.module_utils import host_state, monitor
from ansible_collections.blueoctopus.site.plugins.modules import host_status
from modules import Programs, call

Render = Callable[..., str]


class Prometheus(BaseHTTPRequestHandler):
    """Answers as Prometheus."""

    status, body, released = 200, b"", threading.Event()

    def do_GET(self) -> None:
        if self.body == b"wait":
            self.released.wait(30)
        self.send_response(self.status if self.path == "/api/v1/alerts" else 404)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def prometheus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: Programs) -> Iterator[type[Prometheus]]:
    """A server in place of Prometheus, on a host with the settings of a monitor."""

    class Own(Prometheus):
        released = threading.Event()

    programs.add("apt-get")
    (tmp_path / "alertmanager.yml").touch()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    monkeypatch.setattr(monitor, "SETTINGS", tmp_path / "alertmanager.yml")
    monkeypatch.setattr(monitor, "PROMETHEUS", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(monitor, "TIMEOUT", 0.2)
    monkeypatch.setattr(host_state, "UPDATES", tmp_path / "kept.json")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Own
        Own.released.set()
        server.shutdown()


@pytest.fixture
def summaries(render: Render) -> dict[str, str]:
    """The texts of the alerts, as in the rules."""
    groups = yaml.safe_load(render("monitor", "rules.yml.j2"))["groups"]
    found = {rule["alert"]: rule["annotations"]["summary"] for group in groups for rule in group["rules"]}
    return {name: text.replace("{{ $labels.host }}", "mon1") for name, text in found.items()}


def answer(*alerts: tuple[str, str, str], **labels: str) -> bytes:
    """The answer of Prometheus with alerts: name, state and text."""
    found = [
        {"labels": {"alertname": name, "host": "mon1", **labels}, "annotations": {"summary": text}, "state": state}
        for name, state, text in alerts
    ]
    return json.dumps({"status": "success", "data": {"alerts": found}}).encode()


def found_problems() -> list[tuple[str, str]]:
    """The subject and the text of the problems with the delivery of alerts."""
    problems = call(host_status, apps=[])["host"]["problems"]
    return [(found["subject"], found["text"]) for found in problems if found["kind"] == "delivery"]


def test_alerts_that_a_monitor_cannot_send_are_a_problem_of_it(
    prometheus: type[Prometheus], summaries: dict[str, str]
) -> None:
    text = summaries["AlertsNotSent"].replace("{{ $labels.integration }}", "webhook")
    prometheus.body = answer(("AlertsNotSent", "firing", text), integration="webhook")
    assert found_problems() == [("webhook", "alerts could not be sent by webhook")]


def test_metrics_that_a_monitor_cannot_store_are_a_problem_of_it(
    prometheus: type[Prometheus], summaries: dict[str, str]
) -> None:
    prometheus.body = answer(("MetricsNotStored", "firing", summaries["MetricsNotStored"]))
    assert found_problems() == [("", "the monitor can't store metrics, and notices no other problem")]


def test_other_alerts_and_those_that_do_not_fire_yet_are_no_problem_of_the_monitor(
    prometheus: type[Prometheus], summaries: dict[str, str]
) -> None:
    pending, other = ("MetricsNotStored", "pending"), ("HostGone", "firing")
    prometheus.body = answer(*((name, state, summaries[name]) for name, state in (pending, other)))
    assert found_problems() == []


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (503, b"", "Prometheus does not answer: Service Unavailable"),
        (200, b"wait", "Prometheus does not answer: timed out"),
        (200, b"[", "the answer of Prometheus is not valid"),
        (200, b"[]", "the answer of Prometheus is not valid"),
    ],
    ids=["status", "timeout", "no JSON", "another JSON"],
)
def test_a_prometheus_that_gives_no_valid_answer_is_a_problem_of_the_monitor(
    prometheus: type[Prometheus], status: int, body: bytes, expected: str
) -> None:
    prometheus.status, prometheus.body = status, body
    assert found_problems() == [("prometheus", expected)]


@pytest.mark.usefixtures("prometheus")
def test_a_prometheus_that_does_not_run_is_a_problem_of_the_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "PROMETHEUS", "http://127.0.0.1:9")
    assert found_problems() == [("prometheus", "Prometheus does not answer: [Errno 111] Connection refused")]


def test_a_host_that_is_no_monitor_does_not_ask_prometheus(
    prometheus: type[Prometheus], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(monitor, "SETTINGS", tmp_path / "none")
    prometheus.body = b"["
    assert found_problems() == []
