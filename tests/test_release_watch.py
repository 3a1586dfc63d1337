"""The watch of a new release: when failed requests of clients fail the deploy."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import Instance
from ansible_collections.blueoctopus.site.plugins.modules import release_watch
from ansible_collections.blueoctopus.site.plugins.modules.release_watch import judge
from modules import Steps

RELEASE, SWITCHED = "20260101T000000Z-0000000001", 1000.0
Watch = Callable[..., str]


@pytest.mark.parametrize(
    ("before", "after", "is_broken"),
    [
        ((100, 0), (20, 20), True),
        ((0, 0), (20, 11), True),
        ((100, 0), (20, 10), False),
        ((100, 0), (9, 9), False),
        ((100, 0), (10, 10), True),
        ((100, 90), (20, 20), False),
        ((100, 40), (20, 20), True),
    ],
    ids=[
        "all fail",
        "no requests before",
        "half fail",
        "few requests",
        "just enough requests",
        "broken before, too",
        "partly broken before",
    ],
)
def test_most_requests_must_not_fail_unless_they_did_before(
    before: tuple[int, int], after: tuple[int, int], is_broken: bool
) -> None:
    broken, words = judge(before, after)
    assert broken == is_broken
    assert f"{after[1]} of {after[0]} requests" in words
    assert "health_path" in words


def test_nothing_is_said_when_no_request_failed() -> None:
    assert judge((10, 0), (10, 0)) == (False, "")


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times of the health checks, on a clock that only pauses move; it begins a second after the switch."""
    now, times = [SWITCHED + 1], list[float]()

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def check(_self: Instance) -> str:
        times.append(now[0])
        return ""

    monkeypatch.setattr(time, "clock_gettime", lambda _clock: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(Instance, "check_nginx", check)
    monkeypatch.setattr(Instance, "find_deaths", lambda _self: [])
    return times


@pytest.fixture
def watch(steps: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Watch a release; return the error, empty when there is none."""
    monkeypatch.setattr(release_watch, "NGINX_LOGS", tmp_path)
    steps.build(RELEASE)
    return lambda **args: str(steps.run(release_watch, RELEASE, seconds=3, **args).get("msg", ""))


def test_the_watch_lasts_until_its_seconds_after_the_switch_are_over(watch: Watch, checked: list[float]) -> None:
    assert watch(since=SWITCHED) == ""
    assert (checked[0], checked[-1]) == (SWITCHED + 1, SWITCHED + 3)
    checked.clear()
    assert watch() == ""  # behind balancers: from its own begin
    assert checked[-1] - checked[0] == 3


@pytest.mark.parametrize(
    ("method", "found", "reported"),
    [("check_nginx", "status 500", "status 500"), ("find_deaths", ["a worker"], "a worker died.")],
)
@pytest.mark.usefixtures("checked")
def test_a_problem_in_the_last_moment_fails_the_watch(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, method: str, found: str | list[str], reported: str
) -> None:
    nothing = type(found)()

    def look(_self: Instance) -> str | list[str]:
        return found if time.clock_gettime(time.CLOCK_BOOTTIME) == SWITCHED + 3 else nothing

    monkeypatch.setattr(Instance, method, look)
    assert f"release {RELEASE} failed in the seconds after the switch. {reported}" in watch(since=SWITCHED)
