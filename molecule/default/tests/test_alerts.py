"""The messages that a machine sends about its problems. One machine is enough for these tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from receiving import forget_messages, received_messages, start_receiver, stop_receiver
from testing import Machine, Run, Web, wait_for

testinfra_hosts = ["ansible://debian13"]
Play = Callable[..., Run]
Status = Callable[..., tuple[Run, dict[str, Any]]]


@pytest.fixture
def receiver(machine: Machine) -> Iterator[None]:
    """A receiver of messages on the machine."""
    with machine.host.sudo():
        forget_messages(machine.host)
        start_receiver(machine.host)
        yield
        stop_receiver(machine.host)


@pytest.mark.usefixtures("receiver")
def test_alerts_are_sent_once_and_once_when_the_problem_is_over(
    machine: Machine, play: Play, status: Status, echo: Web
) -> None:
    settings = ["-e", '{"alert_webhook": "http://127.0.0.1:9099/", "alert_deploys": true}']

    def check(times: int = 2) -> None:
        for _ in range(times):
            machine.host.run_expect([0], "systemctl start alert.service")

    def received(kind: str, app: str = "") -> list[str]:
        found = received_messages(machine.host)
        return [entry["state"] for entry in found if (entry["kind"], entry["app"]) == (kind, app)]

    def failing_since() -> str:
        return str(status()[1]["hosts"][machine.name]["alerts"]["delivery"].get("failing_since", ""))

    units = f"echo@{machine.live('echo')}.service echo@{machine.live('echo')}.socket"
    try:
        run = play("provision", *settings)
        assert run.code == 0, run.output
        assert play("provision", *settings).recap(machine.name)["changed"] == 0
        check()
        machine.host.run_expect([0], f"systemctl stop {units}")
        check(4)
        assert received("down", "echo") == ["problem"]
        machine.host.run_expect([0], f"systemctl start {units}")
        wait_for(lambda: echo.ask("/").status == 200, 30, "the app responds again")
        check(4)
        assert received("down", "echo") == ["problem", "over"]

        # A receiver that is down gets the message later.
        stop_receiver(machine.host)
        machine.host.run("systemd-run --unit=broken --service-type=oneshot false")
        check()
        assert failing_since()
        start_receiver(machine.host)
        wait_for(lambda: received("unit") == ["problem"], 180, "the message is sent by the timer")
        assert not failing_since()
        machine.host.run_expect([0], "systemctl reset-failed broken")

        # To both hosts, so that they keep the same release.
        deployed = play("deploy", "-e", "app=echo", "-e", "rebuild=true", limit="webservers")
        assert deployed.code == 0, deployed.output
        check(1)
        assert received("deploy", "echo") == ["event"]
    finally:
        machine.host.run("systemctl reset-failed broken")
        removed = play("provision")
    assert removed.code == 0, removed.output
    assert not machine.host.file("/etc/alert").exists
    assert machine.host.run("systemctl is-active alert.timer").stdout.strip() != "active"
