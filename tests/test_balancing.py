"""The configuration of the balancers, in a real HAProxy: what clients and webservers get."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from balancing import DOMAIN, Balancer, Webserver, temporary_balancer
from nginx_site import BALANCED, own_address

pytestmark = [pytest.mark.needs("haproxy"), pytest.mark.slow]


@pytest.fixture
def balancer(render: Callable[..., str], program: ModuleType) -> Iterator[Balancer]:
    """A balancer that does not run yet."""
    with temporary_balancer(render, program) as new:
        yield new


def answering(balancer: Balancer, count: int = 8) -> set[str]:
    """The webservers that answer a number of requests."""
    return {balancer.ask().text for _ in range(count)}


# --- the configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"balancer_peers": [{"name": "lb2", "address": "192.0.2.2", "port": 80}]},
        {"balancer_trusted_proxies": ["198.51.100.0/24", "2001:db8::/32"], "balancer_ban_ignore": ["192.0.2.7"]},
        {"balancer_ban_retries": 0},
    ],
)
def test_haproxy_accepts_the_configuration(balancer: Balancer, values: dict[str, Any]) -> None:
    balancer.add("web1")
    plain = balancer.site(name="blog", domains=["blog.example", "www.blog.example"], tls=False)
    wild = balancer.site(name="tenants", domains=["tenants.example", "*.tenants.example"], sticky=True)
    assert balancer.check(balancer.site(), plain, wild, **values) == ""


def test_haproxy_starts_without_sites_and_certificates(balancer: Balancer) -> None:
    (balancer.folder / "certificates/shop.pem").unlink()
    balancer.start()
    with pytest.raises((http.client.BadStatusLine, ConnectionError)):
        balancer.ask(secure=False)


# --- webservers -------------------------------------------------------------------------------------------------------


def test_requests_are_distributed_over_webservers_and_only_healthy_ones_get_any(balancer: Balancer) -> None:
    one, two = balancer.add("web1"), balancer.add("web2")
    balancer.start(balancer.site())
    assert answering(balancer) == {"web1", "web2"}
    two.healthy = False
    balancer.wait_for(lambda: balancer.states() == {"web1": "UP", "web2": "DOWN"})
    assert answering(balancer) == {"web1"}
    two.healthy, one.healthy = True, False
    balancer.wait_for(lambda: balancer.states() == {"web1": "DOWN", "web2": "UP"})
    assert answering(balancer) == {"web2"}


def test_a_health_check_of_a_balancer_counts_as_one_of_the_webserver(balancer: Balancer) -> None:
    web = balancer.add("web1")
    balancer.start(balancer.site())
    balancer.wait_for_checks()
    assert web.checks[-1]["host"] == f"shop.{BALANCED}"
    assert web.checks[-1]["x-forwarded-for"] == "127.0.0.1"


@pytest.mark.parametrize("fault", ["another name", "another authority", "the authority of another webserver"])
def test_a_webserver_with_a_wrong_certificate_gets_no_requests(balancer: Balancer, fault: str) -> None:
    web = balancer.add("web1", domain=DOMAIN if fault == "another name" else BALANCED)
    if fault != "another name":
        balancer.trust("web1", balancer.program.self_signed([DOMAIN], 1)[0])
    if fault == "the authority of another webserver":
        balancer.trust("web2", (balancer.folder / "web1/ca.pem").read_text())
    balancer.start(balancer.site())
    assert balancer.ask().status == 503
    balancer.wait_for(lambda: balancer.states() == {"web1": "DOWN"})
    assert (web.seen, web.checks) == ([], [])


def test_a_webserver_that_does_not_run_costs_no_request(balancer: Balancer) -> None:
    balancer.add("web1")
    gone = balancer.add("web2")
    gone.stop()
    balancer.start(balancer.site())
    for method in ("GET", "POST") * 4:
        assert balancer.ask(method=method).text == "web1"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
def test_only_a_request_without_effects_is_repeated(balancer: Balancer, method: str) -> None:
    webs = [balancer.add("web1"), balancer.add("web2")]
    webs[0].silent = True
    balancer.start(balancer.site())
    repeated = method in ("GET", "HEAD")
    # Many, as HAProxy would not repeat every POST even if it was allowed to.
    statuses = [balancer.ask(f"/{number}", method=method).status for number in range(16)]
    sent = [[path for _, path, _ in web.seen] for web in webs]
    assert statuses.count(200) == (16 if repeated else 8), statuses
    assert sent[0]
    assert set(sent[0]) <= set(sent[1]) if repeated else len(sent[0] + sent[1]) == 16


def test_a_drained_webserver_gets_no_new_requests(balancer: Balancer) -> None:
    balancer.add("web1")
    balancer.add("web2")
    balancer.start(balancer.site())
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect(str(balancer.folder / "run/admin.sock"))
        admin.sendall(b"set server shop/web1 state drain\n")
    balancer.wait_for(lambda: balancer.states()["web1"] == "DRAIN")
    assert answering(balancer) == {"web2"}


@pytest.mark.parametrize("sticky", [False, True])
def test_a_disabled_webserver_gets_no_requests_until_it_is_enabled(balancer: Balancer, sticky: bool) -> None:
    balancer.add("web1")
    disabled_one = balancer.add("web2")
    site, config = balancer.site(sticky=sticky), balancer.folder / "haproxy.cfg"
    tasks = Path(__file__).resolve().parent.parent / "roles/balancer/tasks"
    change = yaml.safe_load((tasks / "disable.yml").read_text())[0]["ansible.builtin.replace"]
    pattern = re.sub(r"\{\{.*\}\}", "web2", change["regexp"])
    disabled = balancer.configuration(site)
    for _ in range(2):  # disabling it again changes nothing
        disabled = re.sub(pattern, change["replace"], disabled, flags=re.MULTILINE)
    config.write_text(disabled)
    # The next run finds it, and keeps it disabled.
    (find,) = re.findall(r"argv: (\[sed, .*\])", (tasks / "haproxy.yml").read_text())
    found = subprocess.run([*yaml.safe_load(find)[:-1], config], capture_output=True, text=True, check=True).stdout
    before = {"__balancer_disabled_before": {"stdout_lines": found.split()}}
    assert balancer.configuration(site, **before) == disabled
    balancer.start(site, **before)
    assert balancer.states()["web2"] == "MAINT"
    assert "web1" in answering(balancer)
    assert disabled_one.seen == []
    enabled = balancer.configuration(site, **before, balancer_enabled=["web2"])
    assert enabled == balancer.configuration(site)


def test_a_sticky_site_keeps_a_client_at_its_webserver_while_that_is_healthy(balancer: Balancer) -> None:
    webs = {web.name: web for web in (balancer.add("web1"), balancer.add("web2"))}
    balancer.start(balancer.site(sticky=True))
    first = balancer.ask()
    cookie = first.headers["set-cookie"]
    assert "web" not in cookie.partition(";")[0]
    assert {"HttpOnly", "Secure"} <= {word.strip() for word in cookie.split(";")}
    name = cookie.partition(";")[0]
    assert {balancer.ask(Cookie=name).text for _ in range(6)} == {first.text}
    webs[first.text].healthy = False
    balancer.wait_for(lambda: balancer.states()[first.text] == "DOWN")
    assert balancer.ask(Cookie=name).text != first.text


# --- clients ----------------------------------------------------------------------------------------------------------


def address_seen(web: Webserver) -> str:
    return web.seen[-1][2]["x-forwarded-for"]


def test_the_webserver_gets_the_address_of_the_client_and_no_forged_one(balancer: Balancer) -> None:
    web = balancer.add("web1")
    balancer.start(balancer.site())
    for forged in ("127.0.0.1", "203.0.113.9, 127.0.0.1"):
        balancer.ask(X_Forwarded_For=forged)
        assert address_seen(web) == own_address()


def test_a_trusted_proxy_names_its_client(balancer: Balancer) -> None:
    web = balancer.add("web1")
    balancer.start(balancer.site(), balancer_trusted_proxies=[own_address()])
    balancer.ask(X_Forwarded_For="127.0.0.1, 203.0.113.9")
    assert address_seen(web) == "203.0.113.9"
    balancer.ask()
    assert address_seen(web) == own_address()


@pytest.mark.parametrize("secure", [False, True])
def test_an_unknown_host_name_gets_no_response(balancer: Balancer, secure: bool) -> None:
    web = balancer.add("web1")
    balancer.start(balancer.site())
    with pytest.raises((http.client.BadStatusLine, ConnectionError, ssl.SSLError)):
        balancer.ask(host="other.example", secure=secure)
    assert web.seen == []


def test_the_name_in_the_request_chooses_the_site_whatever_its_case_and_port(balancer: Balancer) -> None:
    shop, tenants = balancer.add("web1", tls=False), balancer.add("web2", tls=False)
    wild = balancer.site(tenants, name="tenants", domains=["tenants.example", "*.shop.example"], tls=False)
    balancer.start(balancer.site(shop, domains=[DOMAIN, "www.shop.example"], tls=False), wild)
    hosts = {"SHOP.example:80": "web1", "www.shop.example": "web1", "a.shop.example": "web2", "tenants.example": "web2"}
    assert {host: balancer.ask(host=host, secure=False).text for host in hosts} == hosts


def test_http_redirects_to_the_first_domain_over_https(balancer: Balancer) -> None:
    balancer.add("web1")
    balancer.start(balancer.site(domains=[DOMAIN, "www.shop.example"]))
    answer = balancer.ask("/a?b=c", host="www.shop.example", secure=False)
    assert answer.status == 301
    assert answer.headers["location"] == f"https://{DOMAIN}:{balancer.https_port}/a?b=c"


def test_http_2_is_offered(balancer: Balancer) -> None:
    balancer.start()
    context = ssl._create_unverified_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection((own_address(), balancer.https_port), 10) as plain:
        assert context.wrap_socket(plain, server_hostname=DOMAIN).selected_alpn_protocol() == "h2"


def test_a_client_that_exceeds_the_limits_again_and_again_is_banned(balancer: Balancer) -> None:
    web = balancer.add("web1")
    web.status = 429
    balancer.start(balancer.site(), balancer_ban_retries=3)
    for _ in range(4):
        assert balancer.ask().status == 429
    with pytest.raises((http.client.BadStatusLine, ConnectionError)):
        balancer.ask()


def test_an_administrator_is_never_banned(balancer: Balancer) -> None:
    balancer.add("web1").status = 429
    balancer.start(balancer.site(), balancer_ban_retries=3, balancer_ban_ignore=[own_address()])
    assert {balancer.ask().status for _ in range(8)} == {429}


# --- challenges -------------------------------------------------------------------------------------------------------

CHALLENGE = "/.well-known/acme-challenge/"


def peers(*others: Webserver) -> list[dict[str, Any]]:
    return [{"name": web.name, "address": "127.0.0.1", "port": web.port} for web in others]


def test_a_challenge_is_answered_by_the_balancer_that_has_the_answer(balancer: Balancer) -> None:
    without, with_it = balancer.add("lb2", tls=False), balancer.add("lb3", tls=False)
    without.status = 404
    balancer.start(balancer.site(balancer.add("web1")), balancer_peers=peers(without, with_it))
    assert [balancer.ask(f"{CHALLENGE}a-B_1", secure=False).text for _ in range(4)] == ["lb3"] * 4
    with_it.status = 404
    assert balancer.ask(f"{CHALLENGE}a-B_1", secure=False).status in (404, 503)


@pytest.mark.parametrize("path", ["", "../../certbot", "a/../../b", "a.txt", "%2e%2e/certbot"])
def test_only_names_of_challenges_are_passed_on(balancer: Balancer, path: str) -> None:
    peer = balancer.add("lb2", tls=False)
    balancer.start(balancer.site(balancer.add("web1")), balancer_peers=peers(peer))
    assert balancer.ask(f"{CHALLENGE}{path}", secure=False).status == 301
    assert peer.seen == []


def test_a_balancer_that_asks_for_a_challenge_is_not_asked_back(balancer: Balancer, render: Callable[..., str]) -> None:
    """Two balancers, each with the other one as its peer; neither has the answer."""
    with temporary_balancer(render, balancer.program) as other:
        for one, two in ((balancer, other), (other, balancer)):
            one.start(balancer_peers=[{"name": "peer", "address": "127.0.0.1", "port": two.http_port}])
        assert balancer.ask(f"{CHALLENGE}a", secure=False).status == 503
        asked = [line for line in other.ask_stats("/;csv").text.splitlines() if line.startswith("all_challenges,peer,")]
        assert [line.split(",")[7] for line in asked] == ["0"]


def test_a_balancer_that_requests_a_challenge_finds_its_own_answer_at_another_balancer(balancer: Balancer) -> None:
    """The name of the site may lead to the other one: a balancer checks that before it requests a certificate."""
    balancer.start(balancer_peers=peers(balancer.add("lb2", tls=False)))
    from_the_peer = http.client.HTTPConnection("127.0.0.1", balancer.http_port, timeout=10)
    assert balancer.answer(from_the_peer, "GET", f"{CHALLENGE}a", {}).text == "lb2"


# --- statistics -------------------------------------------------------------------------------------------------------


def test_statistics_and_metrics_are_on_a_local_address_only(balancer: Balancer) -> None:
    balancer.add("web1")
    balancer.start(balancer.site())
    assert "Statistics Report" in balancer.ask_stats("/").text
    assert 'haproxy_server_status{proxy="shop",server="web1"' in balancer.ask_stats("/metrics").text
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((own_address(), balancer.stats_port), 2)


def test_the_check_of_keepalived_fails_if_haproxy_does_not_respond(
    balancer: Balancer, render: Callable[..., str], tmp_path: Path
) -> None:
    check = tmp_path / "haproxy-alive"
    check.write_text(render("balancer", "haproxy-alive.j2", balancer_stats_port=balancer.stats_port))
    balancer.start()
    assert subprocess.run(["bash", check]).returncode == 0
    assert balancer.running
    balancer.running.send_signal(signal.SIGSTOP)
    assert subprocess.run(["bash", check]).returncode != 0
    balancer.running.send_signal(signal.SIGCONT)
    balancer.stop()
    assert subprocess.run(["bash", check], stderr=subprocess.DEVNULL).returncode != 0
