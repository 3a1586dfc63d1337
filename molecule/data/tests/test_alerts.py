"""Alerts of a host without apps."""

from __future__ import annotations

from collections.abc import Callable

from receiving import forget_messages, received_messages, start_receiver, stop_receiver
from testing import Machine, Run

testinfra_hosts = ["ansible://db13"]


def test_a_host_that_has_only_databases_sends_its_problems(machine: Machine, play: Callable[..., Run]) -> None:
    def check() -> list[str]:
        for _ in range(3):
            machine.host.run_expect([0], "systemctl start alert.service")
        found = received_messages(machine.host)
        return [entry["state"] for entry in found if entry["subject"] == "broken.service"]

    with machine.host.sudo():
        forget_messages(machine.host)
        start_receiver(machine.host)
        try:
            run = play("provision", "-e", '{"alert_webhook": "http://127.0.0.1:9099/"}')
            assert run.code == 0, run.output
            machine.host.run("systemd-run --unit=broken --service-type=oneshot false")
            assert check() == ["problem"]
            machine.host.run_expect([0], "systemctl reset-failed broken")
            assert check() == ["problem", "over"]
        finally:
            machine.host.run("systemctl reset-failed broken")
            stop_receiver(machine.host)
            removed = play("provision")
        assert removed.code == 0, removed.output
        assert not machine.host.file("/etc/alert").exists
