#!/usr/bin/python
"""Drain webservers at a balancer while they switch to a release, and send them requests again."""

from __future__ import annotations

DOCUMENTATION = r"""
module: balancer_servers
short_description: Drain webservers at a balancer, and send them requests again
description:
  - With O(state=drained), HAProxy sends the webservers no new requests, except from clients with a cookie for one.
    Their current requests continue.
  - Drains only webservers that are up, and only while another one is up that can take their requests.
  - A drain ends by itself after O(seconds), so that webservers come back when the run that has drained them dies. A
    reload of HAProxy ends it too.
  - With O(state=ready), ends these drains. Other drains, such as those of an administrator, do not end.
  - A webserver that was disabled since stays disabled.
  - With O(release), HAProxy first sends a probe to each webserver that was drained or is up. If another release
    responds, the status is not from 200 to 399, or there is no response, the webserver stays drained. HAProxy answers a
    probe only if it has the site and its certificate; otherwise there is nothing to probe.
  - Does nothing for a site that HAProxy does not have yet, and while HAProxy does not run.
options:
  site:
    description: Name of the site in HAProxy's configuration.
    type: str
    required: true
  servers:
    description: Names of the webservers.
    type: list
    elements: str
    required: true
  state:
    description: Whether HAProxy sends the webservers requests.
    type: str
    choices: [drained, ready]
    required: true
  seconds:
    description: Seconds after which a drain ends by itself.
    type: int
    default: 60
  release:
    description: Id of the release that must respond to the probe; no probe when empty.
    type: str
    default: ""
  host:
    description: Domain of the probe.
    type: str
    default: localhost
  path:
    description: Path of the probe.
    type: str
    default: /
  tls:
    description: Whether to send the probe over HTTPS.
    type: bool
    default: true
  port:
    description: Port of HAProxy for the probe; by default 443, or 80 without O(tls).
    type: int
  socket:
    description: HAProxy's socket for administration.
    type: path
    default: /run/haproxy/admin.sock
extends_documentation_fragment:
  - blueoctopus.site.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
notes:
  - Needs root on the balancer.
"""

EXAMPLES = r"""
- name: Drain the webserver
  blueoctopus.site.balancer_servers:
    site: shop
    servers: [web1]
    state: drained
  delegate_to: lb1

- name: Probe the webserver through the balancer, and send it requests again
  blueoctopus.site.balancer_servers:
    site: shop
    servers: [web1]
    state: ready
    release: 20260102T030405Z-1f0c2d3e4b
    host: shop.example.org
    path: /healthz
  delegate_to: lb1
"""

RETURN = r"""
servers:
  description: The webservers whose drain has begun or ended.
  returned: success
  type: list
  elements: str
problems:
  description: Why webservers have failed the probe, by their names.
  returned: success
  type: dict
"""

import contextlib
import csv
import http.client
import socket
import subprocess
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.blueoctopus.site.plugins.module_utils.instances import TlsConnection, systemctl

TIMEOUT = 10.0  # seconds for a response, and for a probe to succeed
PAUSE = 0.5  # seconds between two attempts of a probe
CHOSEN = "Balancer-Server"  # the header with which HAProxy lets a probe choose the webserver, and names it
# What ends a drain, also for the timer: a program with the socket, the site and the webserver as arguments. It does not
# enable a webserver that was disabled since: in the state of administration, the bit 1 means maintenance.
END = """import socket, sys

def ask(command):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(sys.argv[1])
        connection.sendall(f"{command}\\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

site, server = sys.argv[2:]
for fields in map(str.split, ask(f"show servers state {site}").splitlines()):
    if len(fields) > 6 and fields[3] == server and not int(fields[6]) & 1:
        raise SystemExit(ask(f"set server {site}/{server} state ready").strip() or None)
"""


def ask(path: str, command: str) -> str:
    """Send a command to HAProxy and return its answer.

    Raises:
        OSError: when HAProxy does not run.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(path)
        connection.sendall(f"{command}\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def states(path: str, site: str) -> dict[str, str]:
    """The state of each webserver of a site, such as UP, DRAIN or DOWN; empty when HAProxy does not have the site."""
    rows = csv.DictReader(ask(path, "show stat").removeprefix("# ").splitlines())
    servers = [row for row in rows if row["pxname"] == site and row["svname"] not in ("FRONTEND", "BACKEND")]
    return {row["svname"]: row["status"].split()[0] for row in servers}


def unit(site: str, server: str) -> str:
    """The unit that ends the drain of a webserver. No site has a dot in its name."""
    return f"balancer-ready.{site}.{server}"


def is_draining(site: str, server: str) -> bool:
    """Whether this module has drained a webserver, and the drain has not ended by itself."""
    return systemctl("is-active", f"{unit(site, server)}.timer") == "active"


def to_drain(found: dict[str, str], servers: list[str], site: str) -> list[str]:
    """The webservers that can be drained: those that are up, or that an interrupted run has drained.

    Args:
        found: the states of all webservers of the site.
        servers: the webservers that shall be drained.
        site: name of the site.
    """
    chosen = [name for name in servers if found.get(name) == "UP" or (name in found and is_draining(site, name))]
    others = [name for name, state in found.items() if state == "UP" and name not in chosen]
    return chosen if others else []


def ending(path: str, site: str, server: str) -> list[str]:
    """The command that ends the drain of a webserver."""
    return ["/usr/bin/python3", "-I", "-c", END, path, site, server]


def drain(path: str, site: str, server: str, seconds: int) -> None:
    """Drain a webserver. The timer that ends the drain starts first, as the run may die at any moment.

    Raises:
        OSError: when the timer can't be started, or HAProxy refuses the command.
    """
    name = unit(site, server)
    systemctl("stop", f"{name}.timer")
    timer = [f"--unit={name}", f"--on-active={seconds}", "--timer-property=AccuracySec=1s"]
    end = ending(path, site, server)
    started = subprocess.run(["systemd-run", "--quiet", "--collect", *timer, *end], capture_output=True, text=True)
    if started.returncode:
        raise OSError(f"systemd-run can't start the timer that ends the drain: {started.stderr.strip()}")
    if problem := ask(path, f"set server {site}/{server} state drain").strip():
        raise OSError(f"HAProxy can't drain {server}: {problem}")


def end_drain(path: str, site: str, server: str) -> None:
    """Let HAProxy send requests to a webserver that this module has drained."""
    done = subprocess.run(ending(path, site, server), capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"HAProxy can't end the drain of {server}: {done.stderr.strip()}")
    systemctl("stop", f"{unit(site, server)}.timer")


def probe(server: str, params: dict[str, Any]) -> str:
    """Send one request through HAProxy to a webserver; return the problem, or an empty text when there is none."""
    host, tls = params["host"], params["tls"]
    port = params["port"] or (443 if tls else 80)
    plain = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    headers = {"Host": host, "User-Agent": "health-check", CHOSEN: server}
    try:
        with contextlib.closing(TlsConnection(host, port, TIMEOUT) if tls else plain) as connection:
            connection.request("GET", params["path"], headers=headers)
            response = connection.getresponse()
    except TimeoutError:
        return "there was no response"
    except (OSError, ValueError, http.client.HTTPException):
        return ""  # HAProxy responds for every site that it has, and whose certificate it has
    releases = response.headers.get_all("X-Release") or []
    if not 200 <= response.status < 400:
        return f"the last response had status {response.status}"
    # A configuration from before this module does not let a probe choose the webserver.
    if response.headers[CHOSEN] == server and params["release"] not in releases:
        return f"the last response came from {f'release {releases[-1]}' if releases else 'no release'}"
    return ""


def wait_for_probes(servers: list[str], params: dict[str, Any]) -> dict[str, str]:
    """Send probes until each webserver has answered one well, or the time is over; return the problems by webserver."""
    deadline, problems = time.monotonic() + TIMEOUT, {}
    for server in servers:
        while problem := probe(server, params):
            if time.monotonic() >= deadline:
                problems[server] = f"GET {params['path']} did not succeed within {TIMEOUT:g} s: {problem}."
                break
            time.sleep(PAUSE)
    return problems


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "site": {"type": "str", "required": True},
            "servers": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["drained", "ready"], "required": True},
            "seconds": {"type": "int", "default": 60},
            "release": {"type": "str", "default": ""},
            "host": {"type": "str", "default": "localhost"},
            "path": {"type": "str", "default": "/"},
            "tls": {"type": "bool", "default": True},
            "port": {"type": "int"},
            "socket": {"type": "path", "default": "/run/haproxy/admin.sock"},
        },
        supports_check_mode=True,
    )
    params = module.params
    path, site, servers = params["socket"], params["site"], params["servers"]
    try:
        found = states(path, site)
    except OSError:  # HAProxy does not run: this balancer sends no requests
        module.exit_json(changed=False, servers=[], problems={})
    if params["state"] == "drained":
        chosen = to_drain(found, servers, site)
    else:
        chosen = [server for server in servers if server in found and is_draining(site, server)]
    # Not one that is down: HAProxy may not know its new address or authority yet.
    probed = [server for server in servers if server in chosen or found.get(server) in ("UP", "DRAIN")]
    if module.check_mode:
        module.exit_json(changed=bool(chosen), servers=chosen, problems={})
    problems = wait_for_probes(probed, params) if params["release"] else {}
    chosen = [server for server in chosen if server not in problems]
    try:
        for server in chosen:
            if params["state"] == "drained":
                drain(path, site, server, params["seconds"])
            else:
                end_drain(path, site, server)
    except OSError as error:
        module.fail_json(msg=f"{site}: {error}")
    module.exit_json(changed=bool(chosen), servers=chosen, problems=problems)


if __name__ == "__main__":
    main()
