"""Retiring a webserver: what is refused before any connection, and the drain, in a real HAProxy."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible_collections.community.general.plugins.modules import haproxy
from balancing import DOMAIN, temporary_balancer
from modules import call

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).resolve().parent.parent
NOWHERE = {"ansible_host": "127.0.0.1", "ansible_port": 9}


@pytest.mark.parametrize(
    ("groups", "options", "reason"),
    [
        ({"webservers": ["web1"]}, ["-e", "retire=web1"], "web1 is the only webserver of the inventory"),
        ({"webservers": ["web1", "web2"]}, [], "host all, option -e retire\n    found:    nothing"),
        ({"webservers": ["web1", "web2"]}, ["-e", "retire=web3"], "found:    'web3'"),
        (
            {"webservers": ["web1", "web2"]},
            ["-e", "retire=web2"],
            "No other webserver than web2 has blog.",
        ),
        (
            {"webservers": ["web1", "web2"], "databases": ["web2"]},
            ["-e", "retire=web2"],
            "web2 is also in the group databases",
        ),
        (
            {"webservers": ["web1", "web2"], "balancers": ["lb1", "lb2"]},
            ["-e", "retire=web2", "--limit", "web2:lb1"],
            "This run leaves out lb2, which would still send requests to web2.",
        ),
    ],
)
def test_is_refused_before_any_connection(
    tmp_path: Path, groups: dict[str, list[str]], options: list[str], reason: str
) -> None:
    inventory: dict[str, Any] = {name: {"hosts": dict.fromkeys(hosts, NOWHERE)} for name, hosts in groups.items()}
    if "blog" in reason:
        inventory["webservers"]["hosts"] = {
            host: NOWHERE | {"apps": [{"name": name} for name in names]}
            for host, names in {"web1": ["shop"], "web2": ["shop", "blog"]}.items()
        }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        [
            Path(sys.executable).parent / "ansible-playbook",
            "playbooks/retire.yml",
            "-i",
            tmp_path / "hosts.yml",
            *options,
        ],
        cwd=PROJECT,
        env=environment | {"LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert reason in done.stdout, done.stdout
    assert "No host was changed" in done.stdout
    assert "can't be reached" not in done.stdout


@pytest.mark.needs("haproxy")
def test_the_webserver_gets_no_new_requests_and_its_current_one_is_waited_for(
    render: Callable[..., str], program: ModuleType
) -> None:
    plays = yaml.safe_load((PROJECT / "playbooks/retire.yml").read_text())
    (drain,) = (task for play in plays for task in play.get("tasks", []) if "community.general.haproxy" in task)
    with temporary_balancer(render, program) as balancer:
        for name in ("web1", "web2"):
            balancer.add(name, tls=False)
        balancer.start(balancer.site(tls=False))
        balancer.wait_for(lambda: balancer.states() == {"web1": "UP", "web2": "UP"})
        options = drain["community.general.haproxy"] | {"host": "web1", "socket": f"{balancer.folder}/run/admin.sock"}
        with socket.create_connection(("127.0.0.1", balancer.http_port)) as client:
            head = f"POST / HTTP/1.1\r\nHost: {DOMAIN}\r\nBalancer-Server: web1\r\nContent-Length: 4\r\n\r\n"
            client.sendall(head.encode())
            balancer.wait_for(lambda: "shop,web1,0,0,1," in balancer.ask_stats("/;csv").text)
            assert current(call(haproxy, **options)) == 1
            assert balancer.states()["web1"] == "MAINT"
            client.sendall(b"body")
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        balancer.wait_for(lambda: current(call(haproxy, **options)) == 0)
        assert {balancer.ask(secure=False).text for _ in range(6)} == {"web2"}
        assert [request[0] for request in balancer.webservers[0].seen] == ["POST"]


def current(result: dict[str, Any]) -> int:
    """The number of current requests, as the playbook reads it from the result of the module."""
    return sum(int(state["scur"]) for state in result["state_after"])
