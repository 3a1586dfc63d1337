"""The hosts that switch first in a deploy: their batch, their requests, the comparison with the other hosts."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.filter.releases import canary_problem
from ansible_collections.blueoctopus.site.plugins.plugin_utils.releases import batches

HOSTS = ["web1", "web2", "web3", "web4"]
V1, V2 = "20260101T000000Z-0000000001", "20260102T000000Z-0000000002"


@pytest.mark.parametrize(
    ("hosts", "canary", "groups"),
    [
        (4, 1, {"shop, canary": ["web1"], "shop, batch 1 of 2": ["web2", "web3"], "shop, batch 2 of 2": ["web4"]}),
        (4, 9, {"shop, canary": ["web1", "web2", "web3"], "shop": ["web4"]}),
        (1, 1, {"shop": ["web1"]}),
        (0, 1, {}),
    ],
)
def test_the_canary_is_the_first_batch_and_leaves_a_host_for_the_comparison(
    hosts: int, canary: int, groups: dict[str, list[str]]
) -> None:
    states = {host: {"live": V1 if n < hosts else V2, "settled": True} for n, host in enumerate(HOSTS)}
    assert batches(states, V2, "2", "shop", canary) == groups


def measured(host: str, requests: int, errors: int = 0, p50: float = 0.1, p95: float = 0.2) -> dict[str, Any]:
    numbers = {"requests": requests, "errors": errors, "p50_seconds": p50, "p95_seconds": p95}
    return {"item": host, "traffic": numbers}


@pytest.mark.parametrize(
    ("canary", "found"),
    [
        (measured("web1", 100), ""),
        (measured("web1", 100, errors=3), ""),
        (measured("web1", 100, errors=4), "4 of 100 requests failed, on the other hosts 2 of 200"),
        (measured("web1", 19, errors=19), ""),
        (measured("web1", 100, p50=0.3, p95=0.5), ""),
        (measured("web1", 100, p50=0.31), "half of the requests took up to 0.31 s, on the other hosts 0.1 s"),
        (measured("web1", 100, p95=0.6), "95 % of the requests took up to 0.6 s, on the other hosts 0.2 s"),
    ],
)
def test_a_canary_with_more_errors_or_a_higher_latency_is_a_problem(canary: dict[str, Any], found: str) -> None:
    others = [measured("web2", 100, errors=2), measured("web3", 100, p50=0.05, p95=0.1)]
    others.append({"item": "web4", "unreachable": True})
    problem = canary_problem([canary, *others], "shop", ["web1"], 300)
    where = "shop: the release is worse than the previous one on web1, in 300 s: "
    assert problem == (f"{where}{found}." if found else "")


def test_a_canary_is_not_compared_with_hosts_without_requests() -> None:
    none: dict[str, Any] = {"requests": 0, "errors": 0, "p50_seconds": None, "p95_seconds": None}
    assert canary_problem([measured("web1", 100, 100), {"item": "web2", "traffic": none}], "shop", ["web1"], 300) == ""
