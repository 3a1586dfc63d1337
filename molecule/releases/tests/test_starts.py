"""Releases that need long to start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from testing import Run

testinfra_hosts = ["ansible://debian13"]
Deploy = Callable[..., Run]


def test_slow_start_error_names_health_timeout(deploy: Deploy, shop: Path) -> None:
    code = (shop / "shop.py").read_text()
    (shop / "shop.py").write_text(code.replace("app = Flask", "time.sleep(9)\napp = Flask"))
    for preload in (False, True):
        run = deploy(f"that needs 9 seconds, preload {preload}", preload=preload, health_timeout=3)
        assert run.code != 0
        assert "increase the key health_timeout" in run.output, run.output
    assert deploy("that has the time", preload=True, health_timeout=60).code == 0
