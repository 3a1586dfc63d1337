"""Which hosts offer HTTP/3: the decision of playbooks/check.yml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

PROJECT = Path(__file__).resolve().parent.parent
GROUPS = {"webservers": ["web1"], "balancers": ["lb1", "lb2"]}
BALANCERS = {"lb1": 13, "lb2": 13}


def offers(host: str, versions: dict[str, int], now: bool = False, groups: Any = GROUPS, **inventory: Any) -> bool:
    """Whether a host offers HTTP/3.

    Args:
        host: the host.
        versions: the Debian version of each host that the run has reached.
        now: whether the host offers it already.
        groups: the hosts of each group.
        inventory: variables of the host in the inventory.
    """
    plays = yaml.safe_load((PROJECT / "playbooks/check.yml").read_text())
    tasks = [task for play in plays for task in play.get("tasks", []) if "ansible.builtin.set_fact" in task]
    (task,) = [task for task in tasks if "serves_http3" in task["ansible.builtin.set_fact"]]
    reached = {
        name: {"reached": {"system": {"ID": "debian", "VERSION_ID": str(version)}, "http3": now}}
        for name, version in versions.items()
    }
    hostvars: dict[str, Any] = {name: reached.get(name, {}) for members in groups.values() for name in members}
    variables = {name: trust_as_template(value) for name, value in task["vars"].items()}
    variables |= {"groups": groups, "hostvars": hostvars, "inventory_hostname": host, **hostvars[host], **inventory}
    variables["group_names"] = [name for name, members in groups.items() if host in members]
    template = trust_as_template(task["ansible.builtin.set_fact"]["serves_http3"])
    return bool(Templar(DataLoader(), variables).template(template))


@pytest.mark.parametrize(("version", "expected"), [(12, False), (13, True), (14, True)])
def test_a_webserver_offers_http3_from_debian_13_on(version: int, expected: bool) -> None:
    assert offers("web1", {"web1": version}, groups={"webservers": ["web1"]}) is expected


def test_a_webserver_behind_balancers_offers_no_http3() -> None:
    assert not offers("web1", {"web1": 13, **BALANCERS})
    assert not offers("web1", {"web1": 13, **BALANCERS}, nginx_http3=True)


@pytest.mark.parametrize("other", [12, 13])
def test_balancers_offer_http3_when_all_of_them_support_it(other: int) -> None:
    assert [offers(host, {"web1": 12, "lb1": 13, "lb2": other}) for host in ("lb1", "lb2")] == [other == 13] * 2


@pytest.mark.parametrize("now", [False, True])
def test_a_run_that_leaves_out_a_balancer_changes_nothing(now: bool) -> None:
    assert offers("lb1", {"lb1": 13}, now=now) is now


@pytest.mark.parametrize("value", [False, "false", True])
def test_the_inventory_decides(value: Any) -> None:
    assert offers("lb1", BALANCERS, balancer_http3=value) is (value is True)
    assert offers("web1", {"web1": 13}, groups={"webservers": ["web1"]}, nginx_http3=value) is (value is True)
