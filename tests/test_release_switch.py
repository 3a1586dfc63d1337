"""The step of a deploy that makes a release live."""

from __future__ import annotations

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import Instance, NotReady
from ansible_collections.blueoctopus.site.plugins.modules import release_switch
from modules import Programs, Steps
from nginx_site import needs_nginx

pytestmark = [needs_nginx, pytest.mark.usefixtures("nginx_root")]
LIVE, NEW = (f"2026010{n}T000000Z-{n:010x}" for n in (1, 2))
RELOAD = "systemctl reload nginx"


@pytest.fixture(autouse=True)
def healthy(steps: Steps, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app with a live release, and a new one that answers through nginx."""
    steps.store.make_live(steps.build(LIVE, "shop.worker@.service"))
    steps.build(NEW, "shop.worker@.service")
    monkeypatch.setattr(Instance, "check_nginx", lambda _self: "")
    programs.calls()


def test_the_release_becomes_live_and_its_processes_replace_those_of_the_previous_one(
    steps: Steps, programs: Programs
) -> None:
    result = steps.run(release_switch, NEW, by="me")
    assert (result["changed"], result["former"]) == (True, LIVE)
    assert steps.store.live == NEW
    assert steps.store.site.read_text() == f"# site of {NEW}\n"
    assert programs.calls("systemctl enable", "systemctl reload", "systemctl start", "systemctl stop") == [
        f"systemctl enable --quiet --no-reload shop@{NEW}.socket shop@{NEW}.service",
        RELOAD,
        f"systemctl stop --no-block shop.worker@{LIVE}.service",
        f"systemctl start shop.worker@{NEW}.service",
    ]
    assert [event["result"] for event in steps.store.history()] == ["begun"]


def test_nginx_does_not_reload_for_an_unchanged_site(steps: Steps, programs: Programs) -> None:
    (steps.store.path(NEW) / "site.conf").write_text(f"# site of {LIVE}\n")
    steps.run(release_switch, NEW)
    assert steps.store.live == NEW
    assert RELOAD not in programs.calls()


def test_a_release_that_does_not_answer_through_nginx_is_an_error(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Instance, "check_nginx", lambda _self: "status 502")
    monkeypatch.setattr(release_switch, "TIMEOUT", 0)
    result = steps.run(release_switch, NEW)
    assert "failed right after the switch. status 502" in result["msg"]
    assert steps.store.unfinished()  # the next step restores the previous release


def test_the_error_about_a_worker_that_dies_at_once_has_the_log(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(_instance: Instance) -> str:
        raise NotReady("a worker died.")

    monkeypatch.setattr(Instance, "check_nginx", check)
    monkeypatch.setattr(Instance, "log", lambda _self, _since: "KeyError: 'PRICE'")
    message = steps.run(release_switch, NEW)["msg"]
    assert "failed right after the switch. a worker died." in message
    assert "KeyError: 'PRICE'" in message


def test_check_mode_shows_both_releases_and_switches_nothing(steps: Steps, programs: Programs) -> None:
    result = steps.run(release_switch, NEW, check=True)
    assert (result["diff"]["before"], result["diff"]["after"]) == (f"{LIVE}\n", f"{NEW}\n")
    assert steps.store.live == LIVE
    assert programs.calls() == []
