"""Everything that script/bench measures.

Each round measures every way once, in another order than the round before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks import load, serving
from benchmarks.hosts import BenchError, Command, Done, Lab, Machine, get, say
from benchmarks.ratios import Results
from benchmarks.state import check_state
from benchmarks.ways import (
    DEPLOYING,
    OURS,
    PROVISIONING,
    Site,
    Way,
    administrator,
    packages,
    playbook,
    prepare,
    write_inventory,
    write_source,
)

SECTIONS = ("fresh", "unchanged", "deploy", "rollback", "hosts", "serving")
COUNTS = (1, 8, 12)
DOMAIN = "site.example"
LIVE_TIMEOUT = 30  # seconds until a deployed version answers


def first_line(error: BenchError) -> str:
    """The cause, without the output of the program."""
    return str(error).splitlines()[0][:200]


@dataclass
class Suite:
    """A run of the benchmark.

    Args:
        lab: runs the programs.
        results: gets the values.
        sections: what to measure, of SECTIONS.
        sites: the machine of each way, once it is set up.
        broken: ways that could not set up a machine; no section tries again.
        touched: ways whose machine serves another version than provisioning deploys.
        versions: for each way, the versions that its machine has served and can return to; the last one is live.
        fleet: the machines of the section hosts.
        deploys: number of versions so far.
    """

    lab: Lab
    results: Results
    sections: tuple[str, ...] = SECTIONS
    sites: dict[str, Site] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    versions: dict[str, list[str]] = field(default_factory=dict)
    fleet: list[Machine] = field(default_factory=list)
    deploys: int = 0

    def run(self, rounds: int) -> None:
        """Measure so many rounds."""
        for number in range(1, rounds + 1):
            for section in SECTIONS:
                if section in self.sections:
                    say(f"round {number} of {rounds}: {section}")
                    getattr(self, section)(number)

    def attempt(self, measure: str, way: str, number: int, work: Callable[[], float]) -> None:
        """Record what `work` measures; if it fails, why, and go on with the next way."""
        say(f"  {measure}, {way} …")
        try:
            value = work()
        except BenchError as error:
            say(f"  {measure}, {way}: {error}")
            self.results.fail(measure, way, first_line(error))
        else:
            say(f"  {measure}, {way}: {value:.1f} s")
            self.results.add(measure, way, number, value)

    def in_turn(self, ways: tuple[Way, ...], number: int) -> tuple[Way, ...]:
        """The ways in the order of this round."""
        turn = number % len(ways)
        return ways[turn:] + ways[:turn]

    def provision(self, way: Way) -> float:
        """Set up a fresh machine; return the seconds from the login to the site that answers, without the boot."""
        self.sites.pop(way.name, None)
        self.broken.add(way.name)  # until it has worked
        machine = self.lab.up(f"bench-{way.name}")
        site = prepare(self.lab, machine)
        done = self.call(way.provision(site))
        administrator(site)
        try:
            waited = self.wait_for(site, "first")
        except BenchError as error:
            journal = machine.ssh("sudo journalctl --no-pager --lines=30 --priority=warning")
            raise BenchError(f"{error}\n{self.lab.run(journal, check=False).output}") from error
        self.check(way.name, way.title, machine)
        self.sites[way.name] = site
        self.versions[way.name] = ["first"]
        self.broken.discard(way.name)
        self.touched.discard(way.name)
        return done.seconds + waited

    def check(self, name: str, title: str, machine: Machine) -> None:
        """Record whether a machine has the state that all must have."""
        facts = check_state(self.lab, machine, packages())
        self.results.add_state(name, facts)
        for fact, is_true in facts.items():
            if not is_true:
                say(f"  {title}: not true that {fact}")

    def call(self, command: Command) -> Done:
        """Run a command with SSH connections of its own."""
        environment = {**command.environment, **self.lab.new_connections()}
        return self.lab.run(Command(command.argv, command.folder, environment, command.stdin))

    def wait_for(self, site: Site, version: str) -> float:
        """Wait until the site answers with a version of the app; return how many seconds that took.

        Raises:
            BenchError: if it does not.
        """
        started = time.monotonic()
        while not self.lab.dry and get(site.machine.address, "/version")[:2] != (200, f"{version}\n"):
            if time.monotonic() - started > LIVE_TIMEOUT:
                raise BenchError(f"{site.machine.name} does not answer with version {version}.")
            time.sleep(0.05)
        return time.monotonic() - started

    def site(self, way: Way) -> Site:
        """The machine of a way, which is set up if no earlier section has done so.

        Raises:
            BenchError: if that fails.
        """
        name = way.base or way.name
        if name in self.broken:
            raise BenchError(f"no machine could be set up with {way.title}")
        if name not in self.sites:
            say(f"  setting up a machine with {way.title}")
            self.provision(next(each for each in PROVISIONING if each.name == name))
        return self.sites[name]

    # --- sections -----------------------------------------------------------------------------------------------------

    def fresh(self, number: int) -> None:
        """From a machine that was just created to the live site."""
        for way in self.in_turn(PROVISIONING, number):
            self.attempt("fresh", way.name, number, partial(self.provision, way))

    def unchanged(self, number: int) -> None:
        """The same again, with nothing to change."""

        def again(way: Way) -> float:
            site = self.site(way)
            if way.name in self.touched:
                self.call(way.provision(site))
                self.versions[way.name].append(site.version())
                self.touched.discard(way.name)
            done = self.call(way.provision(site))
            if not self.lab.dry:
                way.check_unchanged(done)
            return done.seconds

        for way in self.in_turn(PROVISIONING, number):
            self.attempt("unchanged", way.name, number, partial(again, way))

    def new_version(self, way: Way) -> float:
        """Deploy changed code; return the seconds until the new version answers."""
        site = self.site(way)
        name = way.base or way.name
        self.touched.add(name)
        self.deploys += 1
        version = f"{way.name}-{self.deploys}"
        site.set_version(version)
        assert way.deploy
        done = self.call(way.deploy(site))
        waited = self.wait_for(site, version)
        self.versions[name].append(version)
        return done.seconds + waited

    def deploy(self, number: int) -> None:
        """Changed code of the app, once without other load, and once while clients send requests."""
        for way in self.in_turn(DEPLOYING, number):
            self.attempt("deploy", way.name, number, partial(self.new_version, way))
            if number in self.results.samples.get("deploy", {}).get(way.name, {}):
                self.attempt("deploy under load", way.name, number, partial(self.new_version_under_load, way))
                self.check(way.name, way.title, self.site(way).machine)

    def new_version_under_load(self, way: Way) -> float:
        """Deploy while clients send requests, and count those that fail."""
        with load.steady(self.lab, f"http://{self.site(way).machine.address}/api2") as sent:
            seconds = self.new_version(way)
        self.results.add_requests(way.name, sent.answered, sent.failed)
        say(f"  deploy under load, {way.name}: {sent.failed} of {sent.answered} requests failed")
        return seconds

    def rollback(self, number: int) -> None:
        """Back to the previous version."""

        def back(way: Way) -> float:
            site = self.site(way)
            versions = self.versions[way.base or way.name]
            if len(versions) < 2:
                self.new_version(way)
            self.touched.add(way.base or way.name)
            assert way.rollback
            done = self.call(way.rollback(site))
            versions.pop()
            return done.seconds + self.wait_for(site, versions[-1])

        for way in self.in_turn(DEPLOYING, number):
            self.attempt("rollback", way.name, number, partial(back, way))
            if number in self.results.samples.get("rollback", {}).get(way.name, {}):
                self.check(way.name, way.title, self.site(way).machine)

    def set_up_fleet(self) -> Path:
        """Boot the machines of the section hosts, if they do not run, and set them up; return their inventory."""
        folder = self.lab.folder / "fleet"
        if not self.fleet:
            say(f"  setting up {max(COUNTS)} machines")
            machines = [self.lab.up(f"bench-h{i + 1}", packages()) for i in range(max(COUNTS))]
            folder.mkdir(exist_ok=True)
            write_inventory(folder / "hosts", machines, write_source(folder / "source"), DOMAIN)
            self.call(playbook("site")(Site(machines[0], folder)))
            self.fleet = machines
        return folder

    def hosts(self, number: int) -> None:
        """site.yml with nothing to change, on one and on several hosts, which share the processors of this computer."""

        def again(count: int) -> float:
            command = playbook("site")(Site(self.fleet[0], self.set_up_fleet()))
            names = [machine.name for machine in self.fleet[:count]]
            done = self.call(Command((*command.argv, "--limit", ",".join(names)), command.folder))
            if not self.lab.dry:
                OURS.check_unchanged(done)
                answered = [get(m.address, "/version", host=DOMAIN)[0] == 200 for m in self.fleet[:count]]
                self.results.add_state(f"hosts {count}", {"every host answers": all(answered)})
            return done.seconds

        try:
            self.set_up_fleet()
        except BenchError as error:
            say(f"  hosts: {error}")
            for count in COUNTS:
                self.results.fail("hosts", f"hosts {count}", first_line(error))
            return
        for count in COUNTS:
            self.attempt("hosts", f"hosts {count}", number, partial(again, count))

    def serving(self, number: int) -> None:
        """Requests a second."""
        try:
            site = self.site(OURS)
            with serving.rivals(self.lab, site):
                serving.measure(self.lab, site, self.results, number)
        except BenchError as error:
            say(f"  serving: {error}")
            for measure in ("small", "slow", "cpu"):
                self.results.fail(measure, OURS.name, first_line(error))
