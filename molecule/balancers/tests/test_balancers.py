"""Two webservers behind two balancers: what clients and webservers see, and what happens when one of them fails."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from behind_balancers import OFF, Machines, holders, switch_off
from clients import Clients, hosts_of
from testing import Machine, Run, Web, after_the_switch, wait_for

testinfra_hosts = ["ansible://web13"]
ALL = "all"
Play = Callable[..., Run]
Visit = Callable[..., AbstractContextManager[Clients]]
Posts = Callable[[], list[int]]


def drains(machine: Machine, since: float) -> list[str]:
    """What a balancer has logged of drains of the shop since a time: "web12 begins", "web12 ends"."""
    with machine.host.sudo():
        log = machine.host.check_output(f"journalctl --unit=haproxy --output=cat --since=@{int(since)}")
    found = re.findall(r"Server shop/(\w+) (?:enters (drain) state|is \w+ \(leaving)", log)
    events = [f"{server} {'begins' if begins else 'ends'}" for server, begins in found]
    return list(dict.fromkeys(events))  # each stands twice in the log


def went_down(machine: Machine, since: float) -> bool:
    """Whether a balancer has considered a webserver of the shop down since a time."""
    with machine.host.sudo():
        log = machine.host.check_output(f"journalctl --unit=haproxy --output=cat --since=@{int(since)}")
    return bool(re.search(r"Server shop/\w+ is (going )?DOWN", log))


def break_on(host: str, shop: Path) -> None:
    """Make the health checks of the app fail on one webserver, one second after the switch."""
    text = (shop / "counter.py").read_text()
    fault = after_the_switch("os.environ['BROKEN'] = 'yes'").replace("\n", "\n    ")
    text = text.replace("app = Flask", f"if {host!r} in socket.gethostname():\n    {fault}\napp = Flask")
    healthy = 'return ("broken\\n", 500) if os.environ.get("BROKEN") else "ok\\n"'
    (shop / "counter.py").write_text(text.replace('return "ok\\n"', healthy))


def assert_posts_are_not_repeated(seen: Clients, recorded: list[int]) -> None:
    assert len(recorded) == len(set(recorded))
    answered = {request.number for request in seen.requests if request.method == "POST" and not request.error}
    assert answered
    assert answered <= set(recorded)


@pytest.fixture(autouse=True)
def whole(machines: Machines, site: Web, shared: str) -> Iterator[None]:
    """Each test begins when everything works."""

    def works() -> bool:
        with contextlib.suppress(AssertionError, RuntimeError):  # of testinfra, when a machine does not respond yet
            return len(holders(machines, shared)) == 1 and hosts_of(site) == {"web12", "web13"}
        return False

    wait_for(works, 60, "one balancer has the address and both webservers answer")
    yield
    wait_for(works, 90, "one balancer has the address and both webservers answer")


# --- clients ----------------------------------------------------------------------------------------------------------


def test_the_app_sees_the_address_of_the_client_and_no_forged_one(machine: Machine, site: Web) -> None:
    gateway = machine.variables["admin_addresses"][0]
    for forged in ({}, {"X-Forwarded-For": "127.0.0.1"}, {"X-Forwarded-For": "203.0.113.9, 127.0.0.1"}):
        seen = site.ask(headers=forged).json
        assert (seen["client"], seen["forwarded"], seen["scheme"]) == (gateway, gateway, "https")


def test_both_balancers_serve_the_site(machines: Machines, site: Web) -> None:
    for name in ("lb12", "lb13"):
        assert hosts_of(replace(site, address=machines[name].web.address)) == {"web12", "web13"}


def test_http_and_other_domains_redirect_to_the_first_domain(shared: str, site: Web) -> None:
    answer = Web(shared, 80, "www.site.example").ask("/a?b=c")
    assert (answer.status, answer.headers["Location"]) == (301, "https://site.example/a?b=c")
    assert site.ask("/").headers["Strict-Transport-Security"] == "max-age=63072000"


@pytest.mark.parametrize("secure", [False, True])
def test_an_unknown_host_name_is_refused(shared: str, site: Web, secure: bool) -> None:
    with pytest.raises((OSError, http.client.HTTPException)):
        (site if secure else Web(shared, 80)).ask(host="stranger.example")


def test_limits_count_the_client_behind_the_balancer(shared: str) -> None:
    basket = Web(shared, 80, "basket.example")
    cookie = basket.ask().headers["Set-Cookie"].partition(";")[0]  # key sticky: the same webserver
    statuses = [basket.ask(headers={"Cookie": cookie}).status for _ in range(6)]
    assert {200, 429} >= set(statuses)
    assert 429 in statuses


def test_webservers_accept_requests_from_the_balancers_alone(machines: Machines) -> None:
    for name, machine in machines.items():
        is_balancer = name.startswith("lb")
        assert [machine.accepts(port) for port in (80, 443)] == [is_balancer] * 2, name
    lb, web = machines["lb13"], machines["web13"]
    connect = f"timeout 3 bash -c '</dev/tcp/{web.web.address}/443'"
    assert lb.host.run(connect).rc == 0
    assert machines["web12"].host.run(connect).rc != 0


def test_key_for_connections_from_the_balancers_is_readable_by_root_alone_and_no_other_certificate_is_renewed(
    machines: Machines,
) -> None:
    for name in ("web12", "web13"):
        host = machines[name].host
        for key, mode in {"ca.key": 0o600, "server.key": 0o640}.items():
            file = host.file(f"/etc/nginx-tls/{key}")
            assert (file.user, file.group, file.mode) == ("root", "root", mode)
        assert host.run("ls /etc/certificates/*.json").rc != 0


def test_statistics_are_not_public(machines: Machines, shared: str) -> None:
    for name in ("lb12", "lb13"):
        assert not machines[name].accepts(8404)
        shown = machines[name].host.check_output(
            "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:8404/metrics\").read().decode())'"
        )
        assert 'haproxy_server_status{proxy="shop",server="web13",state="UP"} 1' in shown
    with pytest.raises(OSError, match=r".+"):
        socket.create_connection((shared, 8404), 2)


# --- runs -------------------------------------------------------------------------------------------------------------


def test_a_second_run_changes_nothing(machines: Machines, play: Play) -> None:
    run = play("site", limit=ALL)
    assert run.code == 0, run.output
    assert {name: run.recap(name)["changed"] for name in machines} == dict.fromkeys(machines, 0), run.output


def test_a_deploy_to_both_webservers_fails_no_request_and_drains_one_after_the_other(
    machines: Machines, deploy: Callable[..., Run], clients: Visit, posts: Posts, site: Web
) -> None:
    began = time.time()
    with clients() as seen:
        run = deploy("under load", "-e", "app=shop", limit=ALL)
    assert run.code == 0, run.output
    for name in ("lb12", "lb13"):
        assert drains(machines[name], began) == ["web12 begins", "web12 ends", "web13 begins", "web13 ends"], name
    assert {site.ask().json["version"] for _ in range(8)} == {"under load"}
    assert len(seen.requests) > 50
    assert seen.failed() == []
    assert_posts_are_not_repeated(seen, posts())


def test_changes_of_the_first_domain_and_of_the_health_path_and_a_rollback_fail_no_request(
    machines: Machines, shop: Path, deploy: Callable[..., Run], play: Play, clients: Visit
) -> None:
    """While the first domain is removed, clients use the second one. The app responds to one health path only."""
    began, (first, second) = time.time(), ("site.example", "www.site.example")
    app = ("-e", "app=shop")

    def move_path() -> Run:
        source = (shop / "counter.py").read_text()
        (shop / "counter.py").write_text(source.replace('"/healthz"', '"/alive"'))
        return deploy("path", *app, limit=ALL, health_path="/alive", watch_time=10)

    changes: list[tuple[str, Callable[[], Run]]] = [
        (second, lambda: deploy("one domain", *app, limit=ALL, domains=[second], watch_time=10)),
        (second, lambda: deploy("both domains", *app, limit=ALL, watch_time=10)),
        (first, move_path),
        (first, lambda: play("rollback", *app, limit=ALL)),
    ]
    for number, (domain, change) in enumerate(changes):
        with clients(domain) as seen:
            run = change()
            time.sleep(8)  # more than three health checks
        assert run.code == 0, (number, run.output)
        assert len(seen.requests) > 50, number
        assert seen.failed() == [], number
    assert not any(went_down(machines[name], began) for name in ("lb12", "lb13"))


def test_a_failed_deploy_with_another_domain_fails_no_request(
    play: Play, changed_app: Callable[..., list[str]], clients: Visit, site: Web
) -> None:
    changed = changed_app("shop", domains=["other.example"], health_path="/missing", health_timeout=5)
    with clients() as seen:
        run = play("deploy", "-e", "app=shop", *changed, limit=ALL)
    assert run.code != 0
    assert "health check" in run.output, run.output
    assert len(seen.requests) > 50
    assert seen.failed() == []
    assert hosts_of(site) == {"web12", "web13"}


def test_a_failure_in_the_last_batch_is_undone_in_the_first_one_and_fails_no_request(
    shop: Path, deploy: Callable[..., Run], clients: Visit, site: Web
) -> None:
    """The fixture `whole` waits until both webservers answer again."""
    before = {site.ask().json["version"] for _ in range(8)}
    break_on("web13", shop)
    with clients() as seen:
        run = deploy("broken on one", "-e", "app=shop", limit=ALL, watch_time=5)
        undone = time.monotonic()
        time.sleep(2)
    assert run.code != 0
    assert "the deploy failed on web13 and was undone on every host" in run.output, run.output
    assert seen.failed() == []
    assert "broken on one" in {request.version for request in seen.requests}  # from web12, the first batch
    assert {request.version for request in seen.after(undone)} == before


def test_a_canary_that_is_slower_than_the_other_webserver_is_undone_and_a_good_one_is_followed(
    machines: Machines, shop: Path, deploy: Callable[..., Run], clients: Visit, site: Web
) -> None:
    def with_canary(version: str) -> tuple[Run, Clients]:
        with clients() as seen:
            run = deploy(version, "-e", "app=shop", "-e", "canary=1", "-e", "canary_watch=10", limit=ALL)
        assert seen.failed() == []
        return run, seen

    before, began = site.ask().json["version"], time.time()
    code = (shop / "counter.py").read_text()
    (shop / "counter.py").write_text(code.replace("sleep(0.02)", "sleep(0.5)"))
    run, seen = with_canary("slow")
    assert run.code != 0
    assert "the release is worse than the previous one on web12, in 10 s" in run.output, run.output
    assert drains(machines["lb13"], began) == ["web12 begins", "web12 ends"]  # web13 has not switched
    assert {request.version for request in seen.requests} == {before, "slow"}
    assert {site.ask().json["version"] for _ in range(8)} == {before}
    (shop / "counter.py").write_text(code)
    run, seen = with_canary("good canary")
    assert run.code == 0, run.output
    first_new = min(request.began for request in seen.requests if request.version == "good canary")
    last_old = max(request.began for request in seen.requests if request.version == before)
    assert last_old - first_new > 10  # seconds of the canary's watch
    assert {site.ask().json["version"] for _ in range(8)} == {"good canary"}


def test_a_webserver_that_a_killed_control_node_has_drained_comes_back(
    machines: Machines, deploy: Callable[..., Run], at_task: Callable[[str, str], dict[str, str]], site: Web
) -> None:
    began, before = time.time(), site.ask().json["version"]
    task = "Probe the hosts of the batch through the balancers, and end the drain"
    run = deploy("killed", "-e", "app=shop", limit=ALL, environment=at_task(task, "KILL"))
    assert run.code == -9, run.output
    assert drains(machines["lb12"], began) == ["web12 begins"]
    wait_for(lambda: hosts_of(site) == {"web12", "web13"}, 90, "web12 gets requests again")
    assert drains(machines["lb12"], began) == ["web12 begins", "web12 ends"]
    wait_for(
        lambda: {site.ask().json["version"] for _ in range(8)} == {before}, 90, "web12 serves its confirmed release"
    )


def test_a_webserver_that_a_deploy_has_skipped_gets_no_requests_until_it_has_been_deployed_to(
    machines: Machines, deploy: Callable[..., Run], clients: Visit, site: Web
) -> None:
    before = site.ask().json["version"]
    off = switch_off(machines["web12"], 240)
    time.sleep(5)
    refused = deploy("refused", limit=ALL)
    assert refused.code != 0
    assert "To continue without this host: -e skip_unreachable=true" in refused.output, refused.output
    assert {site.ask().json["version"] for _ in range(4)} == {before}
    with clients() as seen:
        run = deploy("without web12", "-e", "skip_unreachable=true", limit=ALL)
    assert [run.recap(name)["failed"] for name in ("web13", "lb12", "lb13")] == [0, 0, 0], run.output
    assert seen.failed() == []
    assert {site.ask().json["version"] for _ in range(4)} == {"without web12"}
    assert time.monotonic() < off + 240, "web12 was back before the end of the deploy"
    wait_for(lambda: machines["web12"].accepts(22), 300, "web12 is back")
    for command in ("reload", "restart"):
        time.sleep(8)  # more than three health checks
        assert hosts_of(site) == {"web13"}, command
        for name in ("lb12", "lb13"):
            with machines[name].host.sudo():
                machines[name].host.run_expect([0], f"systemctl {command} haproxy")
    time.sleep(8)
    assert hosts_of(site) == {"web13"}
    again = deploy("everywhere", limit=ALL)
    assert again.code == 0, again.output
    wait_for(lambda: hosts_of(site) == {"web12", "web13"}, 20, "web12 gets requests again")
    assert {site.ask().json["version"] for _ in range(8)} == {"everywhere"}


def test_a_drained_webserver_gets_no_requests(play: Play, site: Web) -> None:
    assert play("drain", "-e", "server=web12", "-e", "state=drain", limit=ALL).code == 0
    assert hosts_of(site) == {"web13"}
    assert play("drain", "-e", "server=web12", "-e", "state=ready", limit=ALL).code == 0
    wait_for(lambda: hosts_of(site) == {"web12", "web13"}, 10, "web12 gets requests again")


# --- faults -----------------------------------------------------------------------------------------------------------


def test_killed_nginx_fails_only_posts_in_flight(machines: Machines, clients: Visit, posts: Posts) -> None:
    with clients() as seen:
        began = time.monotonic()
        with machines["web12"].host.sudo():
            machines["web12"].host.run_expect([0], "pkill -KILL -x nginx")
        ended = time.monotonic()
        time.sleep(5)
    assert all(r.method == "POST" and r.began < ended and r.began + r.seconds > began for r in seen.failed())
    assert len(seen.failed()) <= 4
    assert max(request.seconds for request in seen.requests) < 3
    assert_posts_are_not_repeated(seen, posts())


def test_webserver_that_is_switched_off_fails_only_posts_in_flight(
    machines: Machines, clients: Visit, posts: Posts
) -> None:
    with clients() as seen:
        off = switch_off(machines["web12"])
        time.sleep(10)
    assert all(request.method == "POST" and request.began < off for request in seen.failed()), seen.failed()
    assert len(seen.failed()) <= 4
    assert max(request.seconds for request in seen.after(off)) < 3
    wait_for(lambda: machines["web12"].accepts(22), OFF + 30, "web12 is back")
    assert_posts_are_not_repeated(seen, posts())


def test_other_balancer_takes_the_address_of_one_that_is_switched_off_and_keeps_it(
    machines: Machines, shared: str, clients: Visit, posts: Posts
) -> None:
    (active,) = holders(machines, shared)
    (other,) = {"lb12", "lb13"} - {active}
    with clients() as seen:
        off = switch_off(machines[active])
        time.sleep(3)
        with clients() as late:  # the first ones may all wait for responses of the balancer that is off
            time.sleep(5)
    assert all(request.began < off for request in seen.failed()), seen.failed()
    assert len(seen.failed()) <= 4
    assert not late.failed()
    assert len(late.requests) > 20
    assert max(request.seconds for request in late.requests) < 3
    wait_for(lambda: machines[active].accepts(22), OFF + 30, "the balancer is back")
    time.sleep(5)
    assert holders(machines, shared) == [other]
    assert_posts_are_not_repeated(seen, posts())


def test_other_balancer_takes_the_address_when_haproxy_stops(machines: Machines, shared: str, clients: Visit) -> None:
    (active,) = holders(machines, shared)
    with clients() as seen, machines[active].host.sudo():
        machines[active].host.run_expect([0], "systemctl stop haproxy")
        stopped = time.monotonic()
        wait_for(lambda: active not in holders(machines, shared), 10, "the other balancer has the address")
        time.sleep(3)
        machines[active].host.run_expect([0], "systemctl start haproxy")
    assert all(not request.error for request in seen.after(stopped + 4))


def test_balancers_that_do_not_reach_each_other_both_serve_and_one_keeps_the_address_afterwards(
    machines: Machines, shared: str, clients: Visit
) -> None:
    balancers = [machines[name].host for name in ("lb12", "lb13")]

    def everywhere(command: str) -> None:
        for host in balancers:
            with host.sudo():
                host.run_expect([0], command)

    with clients() as seen:
        everywhere("iptables -I INPUT -p vrrp -j DROP")
        try:
            wait_for(lambda: len(holders(machines, shared)) == 2, 20, "both have the address")
            time.sleep(5)
        finally:
            everywhere("iptables -D INPUT -p vrrp -j DROP")
        wait_for(lambda: holders(machines, shared) == ["lb12"], 20, "the first one in the inventory keeps it")
    assert len(seen.requests) > 50
    # A connection is lost when the address moves to the other balancer.
    assert len(seen.failed()) <= 8, seen.failed()
    assert max(request.seconds for request in seen.requests) < 3
