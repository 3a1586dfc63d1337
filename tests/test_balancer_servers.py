"""The module balancer_servers: drains and probes of webservers, in a real HAProxy. Its timers need systemd."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import systemctl
from ansible_collections.blueoctopus.site.plugins.modules import balancer_servers
from balancing import DOMAIN, HEALTH, Balancer, temporary_balancer
from modules import Programs, call

pytestmark = [pytest.mark.needs("haproxy"), pytest.mark.slow]
V1, V2 = "20260101T000000Z-0000000001", "20260102T000000Z-0000000002"
Servers = Callable[..., dict[str, Any]]
# In place of systemd-run: a process that waits and then runs the command. A file with its number is the active timer.
SYSTEMD_RUN = """
for word; do case $word in
    --unit=*) unit=${word#*=};; --on-active=*) seconds=${word#*=};; --*) ;; *) break;; esac; shift
done
(sleep "$seconds"; rm "$FOLDER/$unit.timer"; exec "$@") >/dev/null 2>&1 &
echo $! > "$FOLDER/$unit.timer"
exit
"""
SYSTEMCTL = """
case $1 in
    is-active) [ -e "$FOLDER/$2" ] && echo active || echo inactive;;
    stop) [ ! -e "$FOLDER/$2" ] || { kill "$(cat "$FOLDER/$2")"; rm "$FOLDER/$2"; };;
esac
exit
"""


@pytest.fixture
def balancer(render: Callable[..., str], program: ModuleType) -> Iterator[Balancer]:
    """A balancer with two webservers that are up."""
    with temporary_balancer(render, program) as new:
        for name in ("web1", "web2"):
            new.add(name).release = V1
        new.start(new.site())
        new.wait_for(lambda: new.states() == {"web1": "UP", "web2": "UP"})
        yield new


@pytest.fixture
def timers(programs: Programs) -> Iterator[Path]:
    """The folder with a file for each active timer."""
    for name, script in {"systemd-run": SYSTEMD_RUN, "systemctl": SYSTEMCTL}.items():
        programs.add(name, f"FOLDER={programs.folder}\n{script}")
    yield programs.folder
    for timer in programs.folder.glob("*.timer"):
        systemctl("stop", timer.name)


@pytest.fixture
def servers(balancer: Balancer, timers: Path) -> Servers:
    """Call the module for the site of the balancer."""
    del timers

    def run(state: str, *names: str, **options: Any) -> dict[str, Any]:
        given: dict[str, Any] = {"site": "shop", "servers": list(names), "state": state, "host": DOMAIN, "path": HEALTH}
        given |= {"socket": str(balancer.folder / "run/admin.sock"), "port": balancer.https_port}
        return call(balancer_servers, **given | options)

    return run


def answering(balancer: Balancer) -> set[str]:
    return {balancer.ask().text for _ in range(8)}


# --- drains -----------------------------------------------------------------------------------------------------------


def test_a_drained_webserver_gets_no_requests_until_it_is_ready_again(
    balancer: Balancer, servers: Servers, timers: Path
) -> None:
    assert servers("drained", "web1")["servers"] == ["web1"]
    assert answering(balancer) == {"web2"}
    assert servers("ready", "web1")["servers"] == ["web1"]
    assert answering(balancer) == {"web1", "web2"}
    assert list(timers.glob("*.timer")) == []


def test_a_drain_ends_by_itself(balancer: Balancer, servers: Servers) -> None:
    servers("drained", "web1", seconds=1)
    assert balancer.states()["web1"] == "DRAIN"
    balancer.wait_for(lambda: balancer.states()["web1"] == "UP")


@pytest.mark.parametrize("all_at_once", [True, False])
def test_the_last_webserver_that_is_up_is_not_drained(balancer: Balancer, servers: Servers, all_at_once: bool) -> None:
    if not all_at_once:
        balancer.webservers[1].healthy = False
        balancer.wait_for(lambda: balancer.states()["web2"] == "DOWN")
    result = servers("drained", *(["web1", "web2"] if all_at_once else ["web1"]))
    assert (result["changed"], result["servers"]) == (False, [])
    assert balancer.states()["web1"] == "UP"


def test_a_drain_of_an_administrator_does_not_end(balancer: Balancer, servers: Servers) -> None:
    balancer_servers.ask(str(balancer.folder / "run/admin.sock"), "set server shop/web1 state drain")
    assert servers("drained", "web1")["servers"] == []
    assert servers("ready", "web1", release=V1)["servers"] == []
    assert balancer.states()["web1"] == "DRAIN"


@pytest.mark.parametrize("by_itself", [True, False])
def test_the_end_of_a_drain_does_not_enable_a_webserver_that_was_disabled_since(
    balancer: Balancer, servers: Servers, timers: Path, by_itself: bool
) -> None:
    servers("drained", "web1", seconds=2 if by_itself else 60)
    balancer_servers.ask(str(balancer.folder / "run/admin.sock"), "set server shop/web1 state maint")
    if by_itself:
        balancer.wait_for(lambda: not list(timers.glob("*.timer")))
        time.sleep(1)
    else:
        servers("ready", "web1")
    assert balancer.states()["web1"] == "MAINT"
    assert answering(balancer) == {"web2"}


def test_a_drain_of_an_interrupted_run_is_continued(balancer: Balancer, servers: Servers) -> None:
    servers("drained", "web1")
    assert servers("drained", "web1")["servers"] == ["web1"]
    assert servers("ready", "web1")["servers"] == ["web1"]
    assert balancer.states()["web1"] == "UP"


def test_nothing_happens_for_an_unknown_site_or_webserver_and_without_haproxy(servers: Servers) -> None:
    for options in ({"site": "other"}, {"servers": ["web9"]}, {"socket": "/nonexistent"}):
        for state in ("drained", "ready"):
            assert servers(state, "web1", release=V2, **options)["servers"] == []


def test_check_mode_tells_what_would_be_drained(balancer: Balancer, servers: Servers) -> None:
    assert servers("drained", "web1", check=True)["changed"] is True
    assert balancer.states()["web1"] == "UP"


# --- probes -----------------------------------------------------------------------------------------------------------


def test_a_webserver_with_the_new_release_passes_the_probe(balancer: Balancer, servers: Servers) -> None:
    servers("drained", "web1")
    balancer.webservers[0].release = V2
    assert servers("ready", "web1", release=V2)["servers"] == ["web1"]
    assert answering(balancer) == {"web1", "web2"}


def test_a_webserver_that_fails_the_probe_stays_drained_until_it_is_ready_without_one(
    balancer: Balancer, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balancer_servers, "TIMEOUT", 1.0)
    servers("drained", "web1")
    balancer.webservers[1].release = V2  # only the chosen webserver counts
    failed = servers("ready", "web1", release=V2)
    assert failed["servers"] == []
    assert failed["problems"]["web1"].endswith(f"within 1 s: the last response came from release {V1}.")
    balancer.webservers[0].healthy = False
    failed = servers("ready", "web1", release=V2)
    assert failed["problems"]["web1"].endswith("within 1 s: the last response had status 500.")
    balancer.webservers[0].healthy = True
    assert answering(balancer) == {"web2"}
    servers("ready", "web1")
    balancer.wait_for(lambda: answering(balancer) == {"web1", "web2"})


def test_a_webserver_that_does_not_respond_through_the_balancer_fails_the_probe(
    balancer: Balancer, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balancer_servers, "TIMEOUT", 1.0)
    servers("drained", "web1")
    balancer.webservers[0].seconds = 3
    failed = servers("ready", "web1", release=V1)
    assert failed["problems"] == {"web1": "GET /healthz did not succeed within 1 s: there was no response."}


def test_a_webserver_that_was_not_drained_is_probed_too_if_it_gets_requests(
    balancer: Balancer, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balancer_servers, "TIMEOUT", 1.0)
    assert servers("drained", "web1", "web2")["servers"] == []
    balancer.webservers[0].release = V2
    failed = servers("ready", "web1", "web2", release=V2)
    assert (list(failed["problems"]), failed["servers"], failed["changed"]) == (["web2"], [], False)
    balancer.webservers[1].healthy = False
    balancer.wait_for(lambda: balancer.states()["web2"] == "DOWN")
    assert servers("ready", "web1", "web2", release=V2)["problems"] == {}


def test_a_probe_reaches_a_webserver_that_the_balancer_considers_down(balancer: Balancer, servers: Servers) -> None:
    servers("drained", "web1")
    balancer.webservers[0].healthy = False
    balancer.wait_for(lambda: len(balancer.webservers[0].checks) > 8)
    balancer.webservers[0].release = V2
    balancer.webservers[0].healthy = True
    assert servers("ready", "web1", release=V2)["servers"] == ["web1"]


def test_there_is_no_probe_for_a_domain_that_the_balancer_does_not_have_yet(servers: Servers) -> None:
    servers("drained", "web1")
    assert servers("ready", "web1", release=V2, host="new.example")["servers"] == ["web1"]


def test_a_client_cannot_choose_the_webserver(balancer: Balancer, servers: Servers) -> None:
    servers("drained", "web1")
    answers = [balancer.ask(Balancer_Server="web1") for _ in range(4)]
    assert {answer.text for answer in answers} == {"web2"}
    assert not any("balancer-server" in answer.headers for answer in answers)
    assert not any("balancer-server" in headers for _, _, headers in balancer.webservers[1].seen)
