"""The step of a deploy that starts a release and waits until it is healthy. nginx itself validates its site."""

from __future__ import annotations

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import Instance
from ansible_collections.blueoctopus.site.plugins.modules import release_start
from modules import Programs, Steps
from nginx_site import needs_nginx

pytestmark = [needs_nginx, pytest.mark.usefixtures("nginx_root")]
NEW = "20260102T000000Z-00000000aa"
# What systemd says of a service from which nothing has died.
RUNNING = f"Id=shop@{NEW}.service\nActiveState=active\nSubState=running\nNRestarts=0\nStatusText="


def test_a_healthy_release_is_started_on_its_own_socket(
    steps: Steps, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.prints("systemctl is-active", "active")
    programs.prints("systemctl show", RUNNING)
    monkeypatch.setattr(Instance, "check_socket", lambda _self, _timeout: "")
    assert steps.run(release_start, steps.build(NEW))["changed"]
    assert programs.calls("systemctl start") == [
        f"systemctl start shop@{NEW}.socket",
        f"systemctl start --no-block shop@{NEW}.service",
    ]
    assert steps.store.live == ""


def test_a_release_that_never_answers_is_an_error_with_the_end_of_its_log(steps: Steps, programs: Programs) -> None:
    programs.prints("systemctl is-active", "activating")
    programs.prints("systemctl show", RUNNING)
    programs.prints(f"journalctl _SYSTEMD_UNIT=shop@{NEW}.service", "ModuleNotFoundError: No module named 'shop'")
    result = steps.run(release_start, steps.build(NEW, health_path="/healthz"))
    assert result["failed"]
    assert "  ModuleNotFoundError: No module named 'shop'" in result["msg"].splitlines()
    assert "GET /healthz did not succeed within 1 s" in result["msg"]


@pytest.mark.needs("systemd-analyze")
def test_an_invalid_time_of_a_timer_is_an_error_before_the_start(steps: Steps, programs: Programs) -> None:
    release = steps.build(NEW, "shop.nightly@.timer")
    (steps.store.path(release) / "units/shop.nightly@.timer").write_text("[Timer]\nOnCalendar=never\n")
    assert "The on_calendar of the timer nightly is invalid" in steps.run(release_start, release)["msg"]
    assert programs.calls("systemctl start") == []


def test_a_site_that_nginx_rejects_is_an_error_before_the_start(steps: Steps, programs: Programs) -> None:
    release = steps.build(NEW)
    (steps.store.path(release) / "site.conf").write_text("listn;\n")
    assert 'unknown directive "listn"' in steps.run(release_start, release)["msg"]
    assert programs.calls("systemctl start") == []


def test_a_run_that_has_lost_the_lock_starts_nothing(steps: Steps, programs: Programs) -> None:
    steps.token = "of another run"
    assert steps.run(release_start, steps.build(NEW))["failed"]
    assert programs.calls() == []


def test_check_mode_starts_nothing(steps: Steps, programs: Programs) -> None:
    assert steps.run(release_start, steps.build(NEW), check=True)["changed"]
    assert programs.calls() == []
