"""Three webservers behind two balancers, with two database hosts: deploys, rollbacks and faults under load.

All clients use the shared address. The tests build on one another.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from behind_balancers import Machines, holders
from clients import Clients, hosts_of
from testing import PROJECT, Run, Web, cut_off, wait_for

testinfra_hosts = ["ansible://web2"]
ALL = "all"
DEPLOYS, ROLLBACKS = 10, 3
WEBSERVERS = ("web1", "web2", "web3")
Play = Callable[..., Run]
Deploy = Callable[..., Run]
Visit = Callable[..., AbstractContextManager[Clients]]
Rows = Callable[[str], list[str]]
AtTask = Callable[[str, str], dict[str, str]]


def versions(site: Web) -> set[str]:
    return {str(site.ask().json["version"]) for _ in range(12)}


def live(machines: Machines) -> list[str]:
    return [machines[name].live("shop") for name in WEBSERVERS]


def assert_orders_are_complete(seen: Clients, rows: Rows) -> None:
    """Each order that was confirmed is in the database, and none is there twice."""
    orders = [int(row) for row in rows("select number from orders")]
    assert len(orders) == len(set(orders))
    confirmed = {request.number for request in seen.requests if request.method == "POST" and not request.error}
    assert confirmed
    assert confirmed <= set(orders)


@pytest.fixture(autouse=True)
def whole(machines: Machines, site: Web, shared: str) -> Iterator[None]:
    """Each test begins when everything works, and ends so that all webservers have the same release."""

    def works() -> bool:
        with contextlib.suppress(AssertionError, RuntimeError):  # of testinfra, when a machine does not respond yet
            return len(holders(machines, shared)) == 1 and hosts_of(site, 24) == set(WEBSERVERS)
        return False

    wait_for(works, 90, "one balancer has the address and all webservers answer")
    yield
    wait_for(works, 90, "one balancer has the address and all webservers answer")
    assert len(set(live(machines))) == 1
    assert len(versions(site)) == 1


def test_deploys_and_rollbacks_fail_no_request(
    machines: Machines, deploy: Deploy, play: Play, clients: Visit, site: Web, rows: Rows
) -> None:
    deployed = [f"deploy {number}" for number in range(DEPLOYS)]
    rolled_back_to = deployed[-2 : -2 - ROLLBACKS : -1]
    with clients() as seen:
        for version in deployed + rolled_back_to:
            began = time.monotonic()
            is_new = version not in {request.version for request in seen.requests}
            run = deploy(version, limit=ALL) if is_new else play("rollback", "-e", "app=shop", limit=ALL)
            assert run.code == 0, run.output
            assert versions(site) == {version}
            print(f"{version}: {time.monotonic() - began:.0f} s")
    print(f"{len(seen.requests)} requests, {len(seen.failed())} failed")
    assert len(seen.requests) > 1000
    assert seen.failed() == []
    assert_orders_are_complete(seen, rows)
    # The release command has run on one host for each deploy, and not for a rollback.
    assert rows("select version from migrations where version like 'deploy%'") == deployed
    assert len(set(live(machines))) == 1


def test_a_release_that_can_not_start_on_one_webserver_answers_no_request_on_any(
    machines: Machines, shop: Path, deploy: Deploy, clients: Visit, site: Web
) -> None:
    before, (release, *_) = versions(site), live(machines)
    with (shop / "orders.py").open("a") as source:
        source.write(
            "\nif socket.gethostname().endswith('web3') and __name__ != '__main__':\n    raise SystemExit(3)\n"
        )
    with clients() as seen:
        run = deploy("can't start", limit=ALL, health_timeout=5)
        time.sleep(2)
    assert run.code != 0
    assert "web3" in run.output
    assert {request.version for request in seen.requests} == before
    assert seen.failed() == []
    assert live(machines) == [release] * 3


def test_a_webserver_that_the_control_node_loses_in_its_batch_comes_back_with_the_release_of_the_others(
    machines: Machines, deploy: Deploy, at_task: AtTask, clients: Visit, site: Web
) -> None:
    before, releases = versions(site), live(machines)
    task = "Probe the hosts of the batch through the balancers, and end the drain"
    with clients() as seen, cut_off(machines["web1"]) as command:
        run = deploy("cut off", limit=ALL, environment=at_task(task, command))
        assert run.code != 0
        assert "web1 can't be reached. The host restores" in run.output, run.output
        wait_for(lambda: versions(site) == before, 120, "web1 has restored the release of the others")
        wait_for(lambda: hosts_of(site, 24) == set(WEBSERVERS), 90, "web1 gets requests again")
    assert seen.failed() == []
    assert live(machines) == releases
    again = deploy("after the cut", limit=ALL)
    assert again.code == 0, again.output
    assert versions(site) == {"after the cut"}


def test_a_webserver_that_loses_its_disk_in_a_deploy_is_replaced_and_gets_the_release_of_the_others(
    machines: Machines,
    shop: Path,
    deploy: Deploy,
    play: Play,
    changed_app: Callable[..., list[str]],
    at_task: AtTask,
    clients: Visit,
    site: Web,
    rows: Rows,
) -> None:
    (before,), releases = versions(site), live(machines)
    lose = f"{PROJECT}/script/machine down cluster-web2"
    with clients() as seen:
        run = deploy("lost", limit=ALL, watch_time=5, environment=at_task("Watch the release", lose))
        assert run.code != 0
        assert "web2 can't be reached" in run.output, run.output
        assert versions(site) == {before}
        assert [machines[name].live("shop") for name in ("web1", "web3")] == releases[:2]
        molecule = {"MOLECULE_SCENARIO_NAME": "cluster", "MOLECULE_PROJECT_DIRECTORY": str(PROJECT)}
        created = play("../molecule/cluster/create", limit="web2", environment=molecule)
        assert created.code == 0, created.output
        (shop / "version.txt").write_text(f"{before}\n")
        joined = play("site", *changed_app("shop", source=str(shop)), limit=ALL)
        assert joined.code == 0, joined.output
        wait_for(lambda: hosts_of(site, 24) == set(WEBSERVERS), 30, "web2 gets requests")
    failed = seen.failed()
    print(f"{len(seen.requests)} requests, {len(failed)} failed: {failed}")
    # Only what web2 was processing when it was lost.
    assert all(request.method == "POST" for request in failed), failed
    assert len(failed) <= 4
    assert_orders_are_complete(seen, rows)
    assert live(machines)[0] == releases[0]


def test_a_promotion_under_load_loses_no_confirmed_order(
    deploy: Deploy, play: Play, clients: Visit, site: Web, rows: Rows
) -> None:
    with clients() as seen:
        run = play("promote", "-e", "promote=db2", limit=ALL)
        assert run.code == 0, run.output
        promoted = time.monotonic()
        time.sleep(5)
    failed = seen.failed()
    seconds = max(r.began + r.seconds for r in failed) - min(r.began for r in failed) if failed else 0
    print(f"{len(seen.requests)} requests, {len(failed)} failed within {seconds:.1f} s")
    assert all(request.began < promoted for request in failed), failed
    assert seconds < 30
    assert_orders_are_complete(seen, rows)
    deployed = deploy("new primary", "-e", "primary_database=db2", limit=ALL)
    assert deployed.code == 0, deployed.output
    assert versions(site) == {"new primary"}
    assert rows("select version from migrations where version = 'new primary'") == ["new primary"]
