"""The program that measures a host, as it is installed, and who can read its metrics."""

from __future__ import annotations

import functools
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.blueoctopus.site.plugins.filter.programs import PACKAGE, program_files
from ansible_collections.blueoctopus.site.plugins.module_utils import app_status, metrics
from ansible_collections.blueoctopus.site.plugins.modules.private_certificate import Certificates
from log_lines import V1
from metric_lines import lines_of
from nginx_site import Site, free_port, needs_nginx, own_address
from status_examples import EVENT

APPS = {"shop": V1, "blog": "20260102T000000Z-11111111bb"}
Render = Callable[..., str]


# --- the installed program --------------------------------------------------------------------------------------------


def test_the_installed_copies_are_complete_and_run_without_ansible(tmp_path: Path) -> None:
    for name, content in program_files("metrics", f"{tmp_path}/metrics").items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)
    package = tmp_path / "metrics" / PACKAGE.replace(".", "/")
    code = package / "metrics.py"
    code.write_text(code.read_text().replace("/run/metrics", f"{tmp_path}/run"))
    command = ["/usr/bin/python3", "-I", "-X", f"pycache_prefix={tmp_path}/cache", str(tmp_path / "metrics")]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr
    assert "host_measured_timestamp_seconds" in (tmp_path / "run/site.prom").read_text()


@pytest.mark.needs("systemd-analyze")
def test_the_units_are_valid(render: Render, tmp_path: Path) -> None:
    for unit in ("metrics.service", "metrics.timer"):
        text = render("metrics", f"{unit}.j2", metrics_groups=["certificates"])
        (tmp_path / unit).write_text(text)
    files = [str(tmp_path / unit) for unit in ("metrics.service", "metrics.timer")]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True)
    assert [line for line in done.stderr.splitlines() if str(tmp_path) in line or "metrics." in line] == []


def test_a_host_has_only_the_exporters_that_it_needs(render: Render) -> None:
    def services(**values: Any) -> list[str]:
        found = yaml.safe_load(render("metrics", "exporters.yml.j2", **values))
        return sorted(path.split("/")[4].removeprefix("prometheus-").split("-")[0] for path in found)

    assert services() == ["exporter", "node"]
    assert services(metrics_nginx_port=9114, metrics_postgresql=True) == ["exporter", "nginx", "node", "postgres"]


# --- apps and deploys ------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[..., set[str]]:
    """A function that runs the program on a host with an app; returns the lines about the app and its deploys."""
    request.getfixturevalue("programs")  # in place of systemctl and journalctl
    for module in (metrics, app_status):
        monkeypatch.setattr(module, "APPS", tmp_path / "srv")
    monkeypatch.setattr(metrics, "FOLDER", tmp_path / "run")
    monkeypatch.setattr(metrics, "EVENTS", tmp_path / "history")
    (tmp_path / "run").mkdir()

    def run(
        *events: tuple[str, str], has_release: bool = True, is_live: bool = False, is_installed: bool = True
    ) -> set[str]:
        app = tmp_path / "srv/shop"
        if is_installed:
            (app / "releases").mkdir(parents=True)
        if has_release:
            (app / "releases" / V1).mkdir(parents=True)
        if is_live:
            (app / "live").symlink_to(f"releases/{V1}")
        shown = [json.dumps({**EVENT, "action": action, "result": result}) for action, result in events]
        (tmp_path / "history").write_text("".join(f"shop {line}\n" for line in shown))
        metrics.main()
        lines = (tmp_path / "run/site.prom").read_text().splitlines()
        return {line for line in lines if line.startswith(("app_up{", "app_last_deploy_success{"))}

    return run


UP, DOWN = 'app_up{app="shop"} 1', 'app_up{app="shop"} 0'
DEPLOYED, FAILED = 'app_last_deploy_success{app="shop"} 1', 'app_last_deploy_success{app="shop"} 0'


def test_a_first_deploy_that_failed_is_a_metric_and_the_app_is_not_down(measured: Callable[..., set[str]]) -> None:
    assert measured(("deploy", "begun"), ("deploy", "failed"), has_release=False) == {FAILED}


def test_a_first_deploy_that_another_host_has_undone_is_a_metric_and_the_app_is_not_down(
    measured: Callable[..., set[str]],
) -> None:
    assert measured(("deploy", "ok"), ("deploy", "failed"), has_release=False) == {FAILED}


def test_an_app_whose_live_link_has_vanished_is_down(measured: Callable[..., set[str]]) -> None:
    assert measured(("deploy", "ok")) == {DOWN, DEPLOYED}


def test_an_app_whose_live_link_has_vanished_is_down_also_after_a_deploy_that_failed(
    measured: Callable[..., set[str]],
) -> None:
    assert measured(("deploy", "ok"), ("deploy", "begun"), ("deploy", "failed")) == {DOWN, FAILED}


def test_the_last_success_is_read_also_after_nine_deploys_that_failed(render: Render, tmp_path: Path) -> None:
    unit = render("metrics", "metrics.service.j2", metrics_groups=[])
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStartPre=")]
    for text, other in (
        ("$$", "$"),
        ("-g metrics", ""),
        ("chgrp metrics", "ls"),
        ("/run", tmp_path),
        ("/srv", tmp_path),
    ):
        line = line.replace(text, str(other))
    (tmp_path / "shop").mkdir()
    events = [("deploy", "ok"), *[("deploy", "begun"), ("deploy", "failed")] * 9]
    shown = [json.dumps({**EVENT, "action": action, "result": result}) for action, result in events]
    (tmp_path / "shop/history.jsonl").write_text("\n".join(shown) + "\n")
    subprocess.run(["/bin/sh", "-c", line.partition("'")[2].rstrip("'")], check=True, capture_output=True)
    found = list(app_status.read_events(tmp_path / "metrics-events/history"))
    assert [event["result"] for _, event in found] == ["ok", *["failed"] * 9]


def test_an_app_with_a_live_release_has_one_value(measured: Callable[..., set[str]]) -> None:
    assert len({UP, DOWN} & measured(("deploy", "ok"), is_live=True)) == 1


def test_an_app_that_was_stopped_is_not_down(measured: Callable[..., set[str]]) -> None:
    assert measured(("deploy", "ok"), ("stop", "ok")) == {DEPLOYED}


def test_an_app_that_was_stopped_is_not_down_also_after_a_deploy_that_failed(measured: Callable[..., set[str]]) -> None:
    assert measured(("deploy", "ok"), ("stop", "ok"), ("deploy", "failed")) == {FAILED}


def test_an_app_that_was_removed_has_no_metrics(measured: Callable[..., set[str]]) -> None:
    assert measured(("deploy", "ok"), ("deploy", "failed"), has_release=False, is_installed=False) == set()


# --- who can read them ------------------------------------------------------------------------------------------------


@contextmanager
def running(*command: str, **environment: str) -> Iterator[int]:
    """A program that runs meanwhile, with its process ID."""
    values = os.environ | environment
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=values) as process:
        try:
            yield process.pid
        finally:
            process.terminate()


def anonymous_memory(pid: int) -> int:
    """KiB of memory of a process, without pages of files."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")))


def get(connection: http.client.HTTPConnection, path: str) -> tuple[int, str]:
    """Send a request, as soon as something listens; the status and the text of the response."""
    deadline = time.monotonic() + 10
    while True:
        try:
            with closing(connection):
                connection.request("GET", path)
                response = connection.getresponse()
                return response.status, response.read().decode()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@needs_nginx
def test_nginx_offers_its_own_counters_to_its_host_alone_and_does_not_log_it(site: Site) -> None:
    site.start({})
    status, text = get(http.client.HTTPConnection("127.0.0.1", site.status_port, timeout=10), "/")
    assert status == 200
    assert text.startswith("Active connections:")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((own_address(), site.status_port), 5).close()
    time.sleep(1.5)
    assert "127.0.0.1" not in (site.folder / "log/access.log").read_text()


@pytest.mark.slow
@pytest.mark.needs("prometheus-exporter-exporter", "prometheus-node-exporter", "openssl")
def test_only_a_monitor_with_a_certificate_of_its_authority_reads_the_metrics(
    render: Render, evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    served, monitor, other = (tmp_path / name for name in ("metrics", "monitor", "other"))
    Certificates(served, ["127.0.0.1"]).create()
    for folder in (monitor, other):
        Certificates(folder, ["monitor1"], "client").create()
    shutil.copy(monitor / "ca.pem", served / "monitors.pem")
    port, inner = free_port(), free_port()
    exporters = evaluate("metrics", "__metrics_exporters", {})
    shown = render("metrics", "exporter-exporter.yml.j2").replace("9100", str(inner))
    (served / "exporters.yml").write_text(shown)
    (tmp_path / "site.prom").write_text("\n".join(lines_of()) + "\n")
    outside = [
        argument.replace("/etc/metrics", str(served)) for argument in exporters["exporter-exporter"]["arguments"]
    ]
    outside = [argument.replace("9998", str(port)) for argument in outside]
    inside = [argument.replace("/run/metrics", str(tmp_path)) for argument in exporters["node-exporter"]["arguments"]]
    inside = [argument.replace("9100", str(inner)) for argument in inside]

    def client(folder: Path | None) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(served / "ca.pem"))
        if folder:
            context.load_cert_chain(folder / "client.pem", folder / "client.key")
        return http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)

    drop_in = yaml.safe_load(render("metrics", "exporters.yml.j2"))
    lines = drop_in["/etc/systemd/system/prometheus-node-exporter.service.d/metrics.conf"].splitlines()
    (settings,) = [line.partition("=")[2].split() for line in lines if line.startswith("Environment=")]
    environment = dict(setting.split("=", 1) for setting in settings)

    with (
        running("prometheus-node-exporter", *inside, **environment) as node,
        running("prometheus-exporter-exporter", *outside, **environment) as proxy,
    ):
        wait = functools.partial(get, http.client.HTTPConnection("127.0.0.1", inner, timeout=10), "/metrics")
        assert wait()[0] == 200
        status, text = get(client(monitor), "/proxy?module=node")
        assert status == 200
        assert 'app_up{app="shop"} 1' in text
        assert "node_time_seconds" in text
        assert "node_textfile_scrape_error 0" in text
        for stranger in (None, other):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                get(client(stranger), "/proxy?module=node")
        assert get(http.client.HTTPConnection("127.0.0.1", port, timeout=10), "/proxy?module=node")[0] == 400
        # Each connection and each reading leaves garbage; the settings of the role bound it.
        for _ in range(40):
            assert get(client(monitor), "/proxy?module=node")[0] == 200
        assert anonymous_memory(node) < 6_000
        assert anonymous_memory(proxy) < 6_000
