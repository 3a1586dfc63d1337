"""Rules of the firewall in UFW's syntax."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.modules import ufw_policy


def item(**keys: Any) -> dict[str, Any]:
    return {"port": "80", "proto": "tcp", "from": None, "limit": False, "comment": ""} | keys


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        ({}, "allow 80/tcp"),
        ({"comment": "web"}, "allow 80/tcp comment 'web'"),
        ({"port": "8000:8100", "proto": "udp"}, "allow 8000:8100/udp"),
        ({"limit": True, "comment": "SSH"}, "limit 80/tcp comment 'SSH'"),
        ({"from": "192.0.2.7"}, "allow from 192.0.2.7 to any port 80 proto tcp"),
        ({"from": "192.0.2.7/32"}, "allow from 192.0.2.7 to any port 80 proto tcp"),
        ({"from": "192.0.2.7/24"}, "allow from 192.0.2.0/24 to any port 80 proto tcp"),
        (
            {"port": "", "proto": "vrrp", "from": "192.0.2.7", "comment": "balancers"},
            "allow from 192.0.2.7 proto vrrp comment 'balancers'",
        ),
        ({"from": "2001:DB8::/32"}, "allow from 2001:db8::/32 to any port 80 proto tcp"),
    ],
)
def test_a_rule_has_ufws_own_syntax(keys: dict[str, str], rule: str) -> None:
    assert ufw_policy.ufw_rule(item(**keys)) == rule
    assert shlex.split(rule)


@pytest.mark.parametrize(
    "keys",
    [
        {"port": "0"},
        {"port": ""},
        {"port": "", "proto": "vrrp"},
        {"port": "80", "proto": "vrrp", "from": "192.0.2.7"},
        {"port": "65536"},
        {"port": "ssh"},
        {"port": "90:80"},
        {"port": "80; reboot"},
        {"from": "everybody"},
        {"from": "192.0.2.0/33"},
        {"from": "0.0.0.0/0"},
        {"comment": "it's"},
        {"comment": "two\nlines"},
    ],
)
def test_an_invalid_rule_is_refused(keys: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        ufw_policy.ufw_rule(item(**keys))


@pytest.mark.parametrize(("port", "is_let_in"), [("22", True), ("20:30", True), ("23", False), ("30:40", False)])
def test_a_rule_allows_its_ports(port: str, is_let_in: bool) -> None:
    assert ufw_policy.allows_port(item(port=port), {22}) == is_let_in
    assert not ufw_policy.allows_port(item(port=port, proto="udp"), {22})
