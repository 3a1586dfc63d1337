"""HTTPS on two balancers: HTTP/3, the secret for it, and the certificate that both have."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable
from dataclasses import replace

from testing import Machine, Run, Web, wait_for

testinfra_hosts = ["ansible://web13"]
Machines = dict[str, Machine]
Play = Callable[..., Run]
BALANCERS = ("lb12", "lb13")


def certificates(machines: Machines, site: Web) -> list[bytes | None]:
    """The certificate for the site that each balancer serves."""
    found = []
    for name in BALANCERS:
        connection = replace(site, address=machines[name].web.address).connect(site.domain)
        assert isinstance(connection.sock, ssl.SSLSocket)
        found.append(connection.sock.getpeercert(binary_form=True))
        connection.close()
    return found


def test_http_3_connections_outlast_a_reload_and_are_reset_after_a_restart(machines: Machines, site: Web) -> None:
    assert "Alt-Svc" not in replace(site, address=machines["lb12"].web.address).ask("/").headers
    lb, client = machines["lb13"], machines["web13"].host
    assert replace(site, address=lb.web.address).ask("/").headers["Alt-Svc"] == 'h3=":443"; ma=86400'
    curl = f"curl -sk --http3-only --resolve {site.domain}:443:{lb.web.address} -o /dev/null"
    shown = "%{http_code} %{http_version} %{num_connects} %{time_total}\\n"
    with lb.host.sudo(), client.sudo():
        client.run_expect([0], "apt-get install --quiet --yes curl")
        client.run_expect(
            [0],
            "rm -f /run/h3 && systemd-run --collect --unit=h3 --property=StandardOutput=file:/run/h3 "
            f"{curl} --rate 2/s --write-out '{shown}' 'https://{site.domain}/?[1-40]'",
        )
        time.sleep(2)
        lb.host.run_expect([0], "systemctl reload haproxy")
        time.sleep(2)
        lb.host.run_expect([0], "systemctl restart haproxy")
        wait_for(lambda: client.run("systemctl is-active h3").rc != 0, 60, "all requests have been sent")
        lines = [line.split() for line in client.check_output("cat /run/h3").splitlines()]
    answered = [line for line in lines if line[0] != "000"]  # during the restart, no HAProxy listens
    assert len(answered) > 30, lines
    assert {(line[0], line[1]) for line in answered} == {("200", "3")}, lines
    # The first one, and those after the reload and after the restart.
    assert sum(int(line[2]) for line in answered) == 3, lines
    assert max(float(line[3]) for line in answered) < 3, lines


def test_balancers_share_a_secret_that_only_root_can_read(machines: Machines) -> None:
    secrets = set()
    for name in BALANCERS:
        with machines[name].host.sudo():
            file = machines[name].host.file("/etc/haproxy/cluster.cfg")
            assert (file.user, file.mode) == ("root", 0o600)
            secrets.add(file.content_string)
    assert len(secrets) == 1
    assert re.search(r"cluster-secret [\w-]{36}$", secrets.pop())


def test_both_balancers_have_the_certificate_that_the_first_one_has_obtained(
    machines: Machines, site: Web, play: Play
) -> None:
    before = certificates(machines, site)
    assert before[0] == before[1]
    run = play("certificate", "-e", "app=shop", "-e", "operation=force", limit="all")
    assert run.code == 0, run.output
    assert "PRIVATE KEY" not in run.output
    after = certificates(machines, site)
    assert after[0] == after[1] != before[0]


def test_a_revocation_that_leaves_out_a_balancer_is_refused(machines: Machines, site: Web, play: Play) -> None:
    before = certificates(machines, site)
    run = play("certificate", "-e", "app=shop", "-e", "operation=revoke", limit="webservers:lb13")
    assert run.code != 0
    assert "All balancers have the same certificate" in run.output
    assert certificates(machines, site) == before


def test_a_run_for_one_balancer_keeps_its_certificates_and_http_3(machines: Machines, site: Web, play: Play) -> None:
    before = certificates(machines, site)
    run = play("balancers", limit="lb13")
    assert run.code == 0, run.output
    assert run.recap("lb13")["changed"] == 0, run.output
    assert certificates(machines, site) == before
