"""Random faults at random moments of deploys, rollbacks and removals, on two hosts under load.

    script/chaos [SEED] [ROUNDS]

After each round, each host must return to its confirmed release by itself, one deploy must succeed, and the invariants
in `Chaos.check` must hold. The app has a process, a timer and a release command. The app's folder on debian13 is a
small file system, which a fault fills; debian12 can be restarted. The tests can't change the clock of a machine, as the
machines share the clock of this computer.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from testing import PROJECT, Fleet, Machine, Run, wait_for

testinfra_hosts = ["ansible://debian13"]
SEED = int(os.environ.get("CHAOS_SEED") or time.time())
ROUNDS = int(os.environ.get("CHAOS_ROUNDS") or 0)
BOTH = "webservers"
# It fails if another one runs on this host at the same time.
RELEASE_COMMAND = "sh -c 'flock --nonblock $DATA_DIR/release-command.lock sleep 1'"
# A release that is "late" fails its health check a second after the switch, a release that is not healthy always.
HEALTH = """
    state, link = (Path(__file__).parent / "healthy.txt").read_text(), Path("/srv/shop/live")
    is_late = link.resolve().name == os.environ["RELEASE"] and time.time() - link.lstat().st_mtime > 1
    return ("no\\n", 500) if state == "no" or state == "late" and is_late else ("ok\\n", 200)
"""
LONGEST = {"deploy": 12.0, "rollback": 6.0, "remove": 6.0}  # seconds within which the fault happens


class Requests:
    """Sends requests to both hosts continuously, and records the versions that have responded."""

    def __init__(self, fleet: Fleet) -> None:
        self.versions: set[str] = set()
        self.fleet, self.ended = fleet, threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(machine,)) for machine in fleet.machines]

    def ask(self, machine: Machine) -> None:
        while not self.ended.is_set():
            with contextlib.suppress(Exception):
                answer = machine.web.ask()
                if answer.status == 200:
                    self.versions.add(str(answer.json["version"]))
            time.sleep(0.02)

    def __enter__(self) -> Requests:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()


class Chaos:
    """One round: an action, and a fault at a random moment of it."""

    def __init__(self, fleet: Fleet, inventory: Path, shop: Path, options: list[str], chance: random.Random) -> None:
        self.fleet, self.inventory, self.shop, self.options, self.chance = fleet, inventory, shop, options, chance
        self.hosts_finish = True

    def start(self, playbook: str, *options: str) -> subprocess.Popen[str]:
        """Start a playbook like a user does."""
        command = ["ansible-playbook", f"playbooks/{playbook}.yml", "-i", str(self.inventory), *self.options, *options]
        own = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PY_COLORS"))}
        environment = own | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        return subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, playbook: str, *options: str) -> Run:
        running = self.start(playbook, *options)
        output = running.communicate()[0]
        return Run(running.returncode, output)

    def on(self, machine: Machine, command: str) -> None:
        with contextlib.suppress(Exception), machine.host.sudo():
            machine.host.run(command)

    # --- faults; each is removed at the end of its context ---

    @contextlib.contextmanager
    def nothing(self, running: subprocess.Popen[str]) -> Iterator[None]:
        del running
        yield

    @contextlib.contextmanager
    def control_node_killed(self, running: subprocess.Popen[str]) -> Iterator[None]:
        running.kill()
        yield

    @contextlib.contextmanager
    def module_killed(self, running: subprocess.Popen[str]) -> Iterator[None]:
        del running
        self.on(self.chance.choice(self.fleet.machines), "pkill -9 -f '^/usr/bin/python3$'")
        yield

    @contextlib.contextmanager
    def workers_killed(self, running: subprocess.Popen[str]) -> Iterator[None]:
        del running
        self.on(self.chance.choice(self.fleet.machines), "pkill -9 -u shop")
        yield

    @contextlib.contextmanager
    def ssh_cut(self, running: subprocess.Popen[str]) -> Iterator[None]:
        del running
        route = f"blackhole {self.chance.choice(self.fleet.machines).web.address}/32".split()
        subprocess.run(["ip", "route", "add", *route], check=True)
        try:
            time.sleep(self.chance.uniform(1, 50))
            yield
        finally:
            subprocess.run(["ip", "route", "delete", *route], check=True)

    @contextlib.contextmanager
    def restarted(self, running: subprocess.Popen[str]) -> Iterator[None]:
        """Like a power failure: no service is stopped before."""
        del running
        self.on(self.fleet.machines[1], "systemd-run --on-active=0.1 systemctl reboot --force --force")
        yield

    @contextlib.contextmanager
    def disk_filled(self, running: subprocess.Popen[str]) -> Iterator[None]:
        del running
        self.on(self.fleet.machines[0], "dd if=/dev/zero of=/srv/shop/filler bs=64k")
        try:
            yield
        finally:
            self.on(self.fleet.machines[0], "rm -f /srv/shop/filler")

    @contextlib.contextmanager
    def second_control_node(self, running: subprocess.Popen[str]) -> Iterator[None]:
        del running
        other = self.start("deploy")
        yield
        other.communicate()

    FAULTS = (
        nothing,
        control_node_killed,
        control_node_killed,
        module_killed,
        workers_killed,
        ssh_cut,
        restarted,
        disk_filled,
        second_control_node,
    )

    def round(self, number: int) -> str:
        """Run one round; return a description of it and the output of the run."""
        kind = self.chance.choices(["good", "bad", "late"], [6, 2, 2])[0]
        (self.shop / "version.txt").write_text(f"{kind}-round-{number}\n")
        (self.shop / "healthy.txt").write_text({"good": "yes", "bad": "no", "late": "late"}[kind])
        action = self.chance.choice(["deploy", "deploy", "deploy", "deploy", "rollback", "remove"])
        fault = self.chance.choice(self.FAULTS)
        moment = self.chance.uniform(0, LONGEST[action])
        running = self.start(action, *([] if action == "deploy" else ["-e", "app=shop"]))
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(moment)
        with fault(self, running):
            output = running.communicate()[0]
        if fault is Chaos.nothing and action == "deploy":
            assert (running.returncode == 0) is (kind == "good"), output
        # Only the next run finishes a removal: a host has no release to return to.
        self.hosts_finish = action != "remove" or running.returncode == 0
        what = f"{action}{f' of a {kind} release' * (action == 'deploy')}, {fault.__name__} after {moment:.1f} s"
        return f"round {number}: {what}\n{output}"

    @staticmethod
    def is_up(machine: Machine) -> bool:
        with contextlib.suppress(RuntimeError):  # of testinfra, when the connection is closed, as in a restart
            return machine.host.run("systemctl is-system-running --wait").stdout.strip() in ("running", "degraded")
        return False

    def hosts_have_ended(self) -> bool:
        """Whether each host has ended the run, or restored itself after it, and nothing is left of the run."""
        return not self.fleet.left_overs() and not any(map(self.guards, self.fleet.machines))

    @staticmethod
    def guards(machine: Machine) -> str:
        """What is left of the guards of runs on a machine."""
        with machine.host.sudo():
            return str(machine.host.check_output("find /var/lib/release-guards /etc/systemd/system -name '*shop-*'"))

    def check_each(self) -> None:
        """Verify that each host serves the release that its history has confirmed, and that no bad one is confirmed."""
        for machine, history in zip(self.fleet.machines, self.fleet.history(), strict=True):
            ended = [event for event in history if event["result"] == "ok"]
            confirmed = "" if ended[-1]["action"] == "stop" else ended[-1]["release"]
            assert machine.live("shop") == confirmed, (machine.name, history[-4:])
            if confirmed:
                version = wait_for(lambda m=machine: m.web.ask().json["version"], 30, f"{machine.name} responds")  # type: ignore[misc]
                assert not version.startswith(("bad-", "late-")), (machine.name, history[-4:])

    def check(self, number: int) -> None:
        """Wait until the hosts have restored themselves; verify the invariants, before and after one more deploy."""
        for machine in self.fleet.machines:
            wait_for(partial(self.is_up, machine), 60, f"{machine.name} can be reached")
        if self.hosts_finish:
            wait_for(self.hosts_have_ended, 130, "no host is left with an unconfirmed release")
            self.check_each()
        (self.shop / "version.txt").write_text(f"after-{number}\n")
        (self.shop / "healthy.txt").write_text("yes")
        rerun = self.run("deploy")
        assert rerun.code == 0, rerun.output
        assert self.fleet.versions() == [f"after-{number}"] * 2
        assert len(set(self.fleet.live())) == 1
        assert self.fleet.left_overs() == []
        for history in self.fleet.history():
            assert history[-1]["result"] == "ok", history[-3:]
            begun = [i for i, event in enumerate(history) if event["result"] == "begun"]
            for i in begun:  # each started action has a result
                assert history[i + 1]["result"] != "begun", history[i : i + 2]


@pytest.mark.skipif(not ROUNDS, reason="only script/chaos and script/test --load run it")
def test_random_faults(fleet: Fleet, inventory: Path, shop: Path, changed_app: Callable[..., list[str]]) -> None:
    text = (shop / "shop.py").read_text()
    assert '    return "ok\\n"' in text
    (shop / "shop.py").write_text(text.replace('    return "ok\\n"', HEALTH.strip("\n")))
    options = changed_app(
        "shop",
        source=str(shop),
        health_timeout=10,
        watch_time=3,
        release_command=RELEASE_COMMAND,
        processes=[{"name": "queue", "command": "sleep infinity"}],
        timers=[{"name": "tick", "command": "true", "on_calendar": "*:*:0/5"}],
    )
    for number in range(ROUNDS):
        chaos = Chaos(fleet, inventory, shop, options, random.Random(f"{SEED}-{number}"))
        began = time.monotonic()
        with Requests(fleet) as requests:
            report = chaos.round(number)
            try:
                chaos.check(number)
            except BaseException:
                print(f"seed {SEED}\n{report}")
                raise
        unproven = {version for version in requests.versions if version.startswith("bad-")}
        assert not unproven, f"seed {SEED}: {unproven} responded although it was never healthy.\n{report}"
        print(f"seed {SEED}, {report.splitlines()[0]}: {time.monotonic() - began:.0f} s", flush=True)
