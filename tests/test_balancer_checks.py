"""The health checks of the balancers, of a real HAProxy at a real nginx: they follow the release that nginx serves."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.modules.private_certificate import Certificates
from balancing import DOMAIN, Balancer, temporary_balancer
from nginx_site import BALANCED, HASH, STATUSES, Site, own_address

pytestmark = [pytest.mark.needs("haproxy", "nginx", "openssl"), pytest.mark.slow]
WWW = f"www.{DOMAIN}"
CHECK = f"shop.{BALANCED}"  # the host name of the health checks
OLD: dict[str, Any] = {"domains": [DOMAIN, WWW], "health_path": "/old"}
PASSED = 2.0  # seconds for more health checks than HAProxy needs to notice a failure


@pytest.fixture
def webserver(site: Site) -> Site:
    """A webserver that trusts the balancer, which has an address of this host. It does not run yet."""
    private = Certificates(site.folder / "private", [BALANCED])
    private.create()
    site.settings = {
        "nginx_trusted_proxies": [own_address()],
        "nginx_balancer_name": BALANCED,
        "nginx_balancer_certificate": str(private.certificate),
        "nginx_balancer_certificate_key": str(private.key),
    }
    return site


@pytest.fixture
def balancer(render: Callable[..., str], program: ModuleType, webserver: Site) -> Iterator[Balancer]:
    """A balancer that does not run yet, and trusts that webserver."""
    with temporary_balancer(render, program) as new:
        new.trust("web1", (webserver.folder / "private/ca.pem").read_text())
        yield new


def start(balancer: Balancer, webserver: Site, tls: str) -> None:
    """Start both for the site with the keys `OLD`."""
    webserver.start(OLD | {"tls": tls})
    port = webserver.port if tls == "none" else webserver.https_port
    servers = [{"name": "web1", "address": own_address(), "port": port}]
    balancer.start(balancer.site(domains=OLD["domains"], tls=tls != "none", servers=servers))
    time.sleep(PASSED)
    assert balancer.states() == {"web1": "UP"}


@pytest.mark.parametrize("tls", ["none", "selfsigned"])
def test_a_switch_to_another_health_path_or_first_domain_leaves_the_webserver_up(
    balancer: Balancer, webserver: Site, monkeypatch: pytest.MonkeyPatch, tls: str
) -> None:
    """The balancer is configured for the keys `OLD` until the end of the deploy."""
    start(balancer, webserver, tls)
    for changes in ({"health_path": "/new?full=1"}, {"domains": [WWW, DOMAIN]}, {"domains": ["new.example", DOMAIN]}):
        app = OLD | {"tls": tls} | changes
        webserver.switch(app)
        monkeypatch.setattr("nginx_site.STATUSES", dict.fromkeys({"/old", "/new?full=1"} - {app["health_path"]}, 404))
        time.sleep(PASSED)
        assert balancer.states() == {"web1": "UP"}, changes
    webserver.switch(OLD | {"tls": tls, "domains": [WWW]})
    time.sleep(PASSED)
    # What both have works, although the balancer has another first domain for it.
    assert (balancer.states(), balancer.ask(host=WWW, secure=tls != "none").status) == ({"web1": "UP"}, 200)


@pytest.mark.parametrize("tls", ["none", "selfsigned"])
def test_an_app_that_fails_its_health_check_is_noticed_whatever_its_domains_and_path_are_now(
    balancer: Balancer, webserver: Site, monkeypatch: pytest.MonkeyPatch, tls: str
) -> None:
    start(balancer, webserver, tls)
    webserver.switch({"domains": ["new.example", DOMAIN], "health_path": "/new", "tls": tls})
    time.sleep(1)
    monkeypatch.setitem(STATUSES, "/new", 500)
    balancer.wait_for(lambda: balancer.states() == {"web1": "DOWN"})


def test_a_webserver_without_the_app_is_down(balancer: Balancer, webserver: Site) -> None:
    start(balancer, webserver, "none")
    webserver.switch({"name": "blog", "domains": ["blog.example"]})
    balancer.wait_for(lambda: balancer.states() == {"web1": "DOWN"})


def check(webserver: Site, **headers: str) -> Any:
    """Send a request like a health check, with other headers if any are given."""
    sent: dict[str, Any] = {"Host": CHECK, "X_Forwarded_For": "127.0.0.1"} | headers
    return webserver.ask("/", **sent)


def test_a_health_check_is_for_the_first_domain_and_has_no_limits_no_password_and_no_line_in_the_log(
    webserver: Site,
) -> None:
    password = {"basic_auth": {"staging": HASH}}
    (webserver.live / "htpasswd").write_text(f"staging:{HASH}\n")
    webserver.start(OLD | password | {"limits": {"requests": 1, "burst": 0, "connections": 1}})
    (webserver.root / "maintenance").touch()
    for _ in range(4):
        answer = check(webserver)
        assert (answer.status, answer.text, answer.headers["x-host-seen"]) == (200, "app: /old", DOMAIN)
    webserver.ask("/shown")
    log = webserver.folder / "log/access.log"
    Balancer.wait_for(lambda: log.exists() and "/shown" in log.read_text())
    assert CHECK not in log.read_text()


def test_clients_get_no_health_check(balancer: Balancer, webserver: Site) -> None:
    start(balancer, webserver, "none")
    assert check(webserver, X_Forwarded_For="203.0.113.9").status == 403  # of a client, if a balancer passed it on
    with pytest.raises((http.client.BadStatusLine, ConnectionError)):  # but it does not
        balancer.ask(host=CHECK, secure=False)


def test_only_a_balancer_sends_health_checks_in_the_name_of_the_webserver(site: Site) -> None:
    site.start(OLD)
    assert check(site).status == 403
