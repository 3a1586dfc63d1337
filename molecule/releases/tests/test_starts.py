"""How a release starts, and errors of a start. One machine is enough for these tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from testing import Machine, Run

testinfra_hosts = ["ansible://debian13"]
Deploy = Callable[..., Run]


def test_an_import_error_ends_the_wait_at_once(deploy: Deploy, shop: Path) -> None:
    for preload in (False, True):
        (shop / "shop.py").write_text("import os\n\nos.environ['NO_SUCH_KEY']\n")
        began = time.monotonic()
        run = deploy(f"without a key, preload {preload}", preload=preload, health_timeout=300)
        assert run.code != 0
        assert "KeyError: 'NO_SUCH_KEY'" in run.output, run.output
        assert time.monotonic() - began < 120


def test_a_health_path_that_alone_changes_is_checked(machine: Machine, deploy: Deploy) -> None:
    assert deploy("with a good health path").code == 0
    live = machine.live("shop")
    run = deploy("with a good health path", health_path="/nowhere", health_timeout=3)
    assert run.code != 0
    assert "The health check GET /nowhere did not succeed within 3 s: the last response had status 404" in run.output
    assert "the key health_path" in run.output
    assert machine.live("shop") == live


def test_an_app_that_needs_longer_than_health_timeout_is_told_so(deploy: Deploy, shop: Path) -> None:
    code = (shop / "shop.py").read_text()
    (shop / "shop.py").write_text(code.replace("app = Flask", "time.sleep(9)\napp = Flask"))
    for preload in (False, True):
        run = deploy(f"that needs 9 seconds, preload {preload}", preload=preload, health_timeout=3)
        assert run.code != 0
        assert "increase the key health_timeout" in run.output, run.output
    assert deploy("that has the time", preload=True, health_timeout=60).code == 0


def test_workers_that_max_requests_replaces_are_no_trouble(machine: Machine, deploy: Deploy) -> None:
    assert deploy("with max_requests", max_requests=5, workers=2, threads=2, preload=True).code == 0
    pids = {machine.web.ask("/").json["pid"] for _ in range(40)}
    assert len(pids) > 2
    live = machine.live("shop")
    shown = machine.host.check_output(f"systemctl show --property=StatusText,NRestarts shop@{live}.service")
    assert "died" not in shown
    assert "NRestarts=0" in shown
