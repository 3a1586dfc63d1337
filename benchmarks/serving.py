"""Requests a second of this project, of what tutorials set up, and of gunicorn alone.

All three run on the machine that site.yml has set up. Only one of them gets requests at a time.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks import load
from benchmarks.hosts import BENCHMARKS, BenchError, Command, Lab, get
from benchmarks.ratios import Results
from benchmarks.ways import APP, Site

SECONDS = 5
PASSES = 3  # in a round: other work of the computer lasts longer than one measurement
CLIENTS = {"small": ("/api2", 32), "slow": ("/slow", 100)}
START_TIMEOUT = 20  # seconds until a server answers


@dataclass(frozen=True)
class Server:
    """What answers requests: its name in the results, its port, and the user of its app."""

    name: str
    port: int
    user: str
    units: tuple[str, ...] = ()


OURS = Server("ours", 80, APP)
RIVALS = (
    Server("tutorial", 8080, "tutorial", ("tutorial", "tutorial-nginx")),
    Server("gunicorn", 8090, "gunicorn", ("gunicorn",)),
)
SERVERS = (OURS, *RIVALS)


@contextlib.contextmanager
def rivals(lab: Lab, site: Site) -> Iterator[None]:
    """The other servers run on the site's machine as long as the context lasts."""
    machine = site.machine
    for rival in RIVALS:
        target = f"/srv/{rival.name}"
        unpack = machine.ssh(f"sudo mkdir -p {target} && sudo tar --extract --no-same-owner --directory={target}")
        pack = 'tar --create --directory="$0" . | "$@"'
        copy = Command(("bash", "-o", "pipefail", "-c", pack, str(site.folder / "source"), *unpack.argv))
        lab.run(copy)
        setup = (BENCHMARKS / rival.name / "setup.sh").read_text()
        lab.run(machine.ssh("sudo --non-interactive bash -s", stdin=setup))
        lab.run(machine.ssh(f"sudo ufw allow {rival.port}/tcp"))
    try:
        yield
    finally:
        for rival in RIVALS:
            lab.run(machine.ssh(f"sudo ufw delete allow {rival.port}/tcp"), check=False)
            lab.run(machine.ssh(f"sudo systemctl stop {' '.join(rival.units)}"), check=False)


def answers(address: str, server: Server) -> dict[str, tuple[int, str]]:
    """What a server answers, as soon as it does.

    Raises:
        BenchError: if it does not.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while get(address, "/version", server.port)[0] != 200:
        if time.monotonic() > deadline:
            raise BenchError(f"{server.name} does not answer on port {server.port} after {START_TIMEOUT} s.")
        time.sleep(0.2)
    return {path: get(address, path, server.port)[:2] for path, _clients in CLIENTS.values()}


def processor_seconds(lab: Lab, site: Site, user: str) -> float:
    """The processor time that a user's processes on the machine have taken."""
    done = lab.run(site.machine.ssh(f"sudo python3 - {user}", stdin=(BENCHMARKS / "cpu.py").read_text()))
    return 0.0 if lab.dry else float(done.output)


def measure(lab: Lab, site: Site, results: Results, round_number: int) -> None:
    """One round: each server, small answers and slow handlers; record requests a second and processor time.

    Records the median of some passes, in which the servers take turns.
    """
    address = site.machine.address
    if not lab.dry:
        wanted = answers(address, OURS)
        for rival in RIVALS:
            results.add_state(rival.name, {"it answers like this project": answers(address, rival) == wanted})
    found: dict[tuple[str, str], list[float]] = {}
    for number, (measure_name, (path, clients)) in itertools.product(range(PASSES), CLIENTS.items()):
        turn = (round_number + number) % len(SERVERS)
        for server in SERVERS[turn:] + SERVERS[:turn]:
            url = f"http://{address}:{server.port}{path}"
            if measure_name == "small":  # to warm up; slow requests would still wait when the next ones come
                load.measure(lab, url, clients, 1)
            before = processor_seconds(lab, site, server.user)
            done = load.measure(lab, url, clients, SECONDS)
            after = processor_seconds(lab, site, server.user)
            found.setdefault((measure_name, server.name), []).append(done.rate)
            if measure_name == "small" and done.answered:
                found.setdefault(("cpu", server.name), []).append((after - before) / done.answered * 1e6)
    for (measure_name, way), values in found.items():
        results.add(measure_name, way, round_number, statistics.median(values))
