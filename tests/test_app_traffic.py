"""The requests of an app on a host, counted from nginx's log."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.modules import app_traffic
from modules import call

RELEASE = "20260102T000000Z-0000000002"


def test_the_requests_of_the_app_in_the_period_are_counted(tmp_path: Path) -> None:
    def line(site: str, ago: float, status: int) -> str:
        moment = datetime.datetime.fromtimestamp(time.time() - ago, datetime.UTC).isoformat(timespec="seconds")
        rest = {"status": status, "seconds": 0.25, "upstream_status": str(status), "release": RELEASE}
        return json.dumps({"time": moment, "site": site} | rest, separators=(",", ":"))

    lines = [line("shop", 100, 500), line("shop", 5, 200), line("blog", 5, 500), line("shop", 2, 502)]
    (tmp_path / "access.log").write_text("\n".join(lines) + "\n")
    traffic = call(app_traffic, name="shop", seconds=60, nginx_logs=str(tmp_path))["traffic"]
    assert (traffic["requests"], traffic["errors"]) == (2, 1)
    assert traffic["p50_seconds"] == pytest.approx(0.25, rel=0.06)
