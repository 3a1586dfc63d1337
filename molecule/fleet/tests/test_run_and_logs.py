"""Commands on one host or on both, and the log of an app on two hosts."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable

import pytest
from testing import Fleet, Run

testinfra_hosts = ["ansible://debian13"]
BOTH = "webservers"
PROCESSES = [{"name": "counter", "command": "sh -c 'while sleep 1; do echo counted; done'"}]
TIMERS = [{"name": "ticker", "command": "echo ticked", "on_calendar": "yearly"}]
LINE = re.compile(r"^ *(\d{4}-\d\d-\d\d [\d:.]+) +(debian1[23]) +(\S+) +(.*)$", re.MULTILINE)


@pytest.mark.parametrize(("options", "count"), [([], 1), (["-e", "everywhere=true"], 2)])
def test_a_command_runs_on_one_host_or_on_all(
    fleet: Fleet, play: Callable[..., Run], options: list[str], count: int
) -> None:
    done = play("run", "-e", "app=shop", "-e", "command=printenv RELEASE", *options, limit=BOTH)
    assert done.code == 0, done.output
    shown = re.findall(r"^\[(\w+)\]\n(\S+)$", done.output, re.MULTILINE)
    live = {machine.name: machine.live("shop") for machine in fleet.machines}
    assert len(shown) == count, done.output
    assert [live[host] for host, _ in shown] == [release for _, release in shown]
    assert len({host for host, _ in shown}) == count


def test_the_log_has_all_sources_of_all_hosts_in_order_of_time(
    fleet: Fleet, play: Callable[..., Run], deploy: Callable[..., Run]
) -> None:
    run = deploy("with a process and a timer", limit=BOTH, processes=PROCESSES, timers=TIMERS)
    assert run.code == 0, run.output
    for machine in fleet.machines:
        machine.web.ask("/only-in-the-log")
        with machine.host.sudo():
            machine.host.run_expect([0], f"systemctl start shop.ticker@{machine.live('shop')}.service")
    time.sleep(2)
    done = play("logs", "-e", "app=shop", "-e", "since=1 minute ago", limit="all")
    assert done.code == 0, done.output
    found = LINE.findall(done.output)
    for machine in fleet.machines:
        seen = [(source, text) for _, host, source, text in found if host == machine.name]
        assert {("counter", "counted"), ("ticker", "ticked")} <= set(seen), done.output
        assert [text for source, text in seen if source == "nginx" and "only-in-the-log" in text], done.output
    times, hosts = [line[0] for line in found], [line[1] for line in found]
    assert times == sorted(times)
    assert len(list(itertools.groupby(hosts))) > 3, done.output  # the lines of both hosts alternate
