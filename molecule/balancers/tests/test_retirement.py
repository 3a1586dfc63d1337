"""A webserver is retired, leaves the inventory, and joins again. These tests run last: the releases then differ."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import yaml
from clients import Clients, hosts_of
from testing import Machine, Run, Web, run_playbook, wait_for

testinfra_hosts = ["ansible://web13"]
METRICS = "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:8404/metrics\").read().decode())'"


def states(balancer: Machine) -> dict[str, str]:
    """The webservers of the shop that a balancer knows, and the state of each: UP, MAINT, …"""
    text = balancer.host.check_output(METRICS)
    found = re.findall(r'haproxy_server_status\{proxy="shop",server="(\w+)",state="(\w+)"\} 1', text)
    return dict(found)


def without(inventory: Path, host: str, folder: Path) -> Path:
    """A copy of the inventory without a host."""
    copy = Path(shutil.copytree(inventory, folder / "inventory"))
    groups = yaml.safe_load((copy / "hosts.yml").read_text())
    for group in groups.values():
        group["hosts"].pop(host, None)
    (copy / "hosts.yml").write_text(yaml.safe_dump(groups))
    return copy


def test_a_webserver_that_is_retired_and_one_that_joins_fail_no_request(
    machines: dict[str, Machine],
    inventory: Path,
    tmp_path: Path,
    play: Callable[..., Run],
    clients: Callable[..., AbstractContextManager[Clients]],
    site: Web,
) -> None:
    balancers, web12 = [machines["lb12"], machines["lb13"]], machines["web12"].host
    with clients() as seen:
        retired = play("retire", "-e", "retire=web12", limit="all")
        assert retired.code == 0, retired.output
        assert hosts_of(site) == {"web13"}
        assert [states(balancer)["web12"] for balancer in balancers] == ["MAINT", "MAINT"]
        assert web12.run("systemctl list-units --plain --no-legend 'shop@*' 'basket@*'").stdout == ""
        with web12.sudo():
            assert web12.file("/srv/shop/data/posts").exists
        removed = run_playbook(without(inventory, "web12", tmp_path), "balancers", limit="all")
        assert removed.code == 0, removed.output
        assert [set(states(balancer)) for balancer in balancers] == [{"web13"}] * 2
        joined = play("site", limit="web12:balancers")
        assert joined.code == 0, joined.output
        wait_for(lambda: [set(states(balancer).values()) for balancer in balancers] == [{"UP"}] * 2, 30, "both are up")
        assert [set(states(balancer)) for balancer in balancers] == [{"web12", "web13"}] * 2
        assert hosts_of(site) == {"web12", "web13"}
    assert len(seen.requests) > 50
    assert seen.failed() == []
