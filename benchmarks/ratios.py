"""The results of the benchmark, and what they allow to say: ratios, their spread, and refusals."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OURS = "ours"
ALIKE = 0.1  # ratios within such a range that includes 1 show that two ways take the same time


@dataclass
class Results:
    """Everything that was measured.

    Args:
        computer: the computer that ran the benchmark, by property.
        states: for each way, the facts that are not true; empty for a way that reached the state of all.
        samples: for each measure and way, the value of each round.
        lost: for each way, the requests of all deploys: sent, and without a good response.
        failures: for each measure and way, why it could not be measured in a round.
    """

    computer: dict[str, str] = field(default_factory=dict)
    states: dict[str, list[str]] = field(default_factory=dict)
    samples: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    lost: dict[str, list[int]] = field(default_factory=dict)
    failures: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, measure: str, way: str, round_number: int, value: float) -> None:
        """Record a value."""
        self.samples.setdefault(measure, {}).setdefault(way, {})[round_number] = value

    def add_state(self, way: str, facts: dict[str, bool]) -> None:
        """Record which facts about a way's machine are not true, in addition to those of earlier checks."""
        missing = {fact for fact, is_true in facts.items() if not is_true}
        self.states[way] = sorted(missing.union(self.states.get(way, [])))

    def fail(self, measure: str, way: str, reason: str) -> None:
        """Record why a way could not be measured."""
        self.failures.setdefault(measure, {})[way] = reason

    def add_requests(self, way: str, sent: int, failed: int) -> None:
        """Record the requests during a deploy."""
        before = self.lost.get(way, [0, 0])
        self.lost[way] = [before[0] + sent, before[1] + failed]

    def save(self, path: Path) -> None:
        """Write the results as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n")


def load_results(path: Path) -> Results:
    """Read results that `save` has written; none if the file does not exist."""
    if not path.exists():
        return Results()
    found: dict[str, Any] = json.loads(path.read_text())
    for ways in found["samples"].values():
        for way, values in ways.items():
            ways[way] = {int(number): value for number, value in values.items()}
    return Results(**found)


@dataclass(frozen=True)
class Comparison:
    """One line of the table: a way beside another one, by the same measure.

    Args:
        measure: name of the measure in the results.
        title: what is measured, for readers.
        against: the way to compare with.
        unit: unit of the values.
        way: the way that is compared.
        more_is_better: as for requests a second.
        target: the ratio to reach: at least, if more is better, else at most.
    """

    measure: str
    title: str
    against: str
    unit: str
    way: str = OURS
    more_is_better: bool = False
    target: float | None = None


@dataclass(frozen=True)
class Ratio:
    """The ratios of the rounds: `way` divided by `against`."""

    median: float
    lowest: float
    highest: float
    rounds: int

    def reaches(self, comparison: Comparison) -> bool | None:
        """Whether the median reaches the target; None without a target."""
        if comparison.target is None:
            return None
        return self.median >= comparison.target if comparison.more_is_better else self.median <= comparison.target


@dataclass(frozen=True)
class Refusal:
    """Why there is no ratio."""

    reason: str


def medians(results: Results, measure: str) -> dict[str, tuple[float, float, float]]:
    """For each way: the median, the lowest and the highest value."""
    ways = results.samples.get(measure, {})
    return {
        way: (statistics.median(values.values()), min(values.values()), max(values.values()))
        for way, values in ways.items()
        if values
    }


def compare(comparison: Comparison, results: Results, names: dict[str, str]) -> Ratio | Refusal:
    """The ratio of two ways, from rounds in which both were measured, or why there is none.

    Args:
        comparison: what to compare.
        results: what was measured.
        names: the ways' names for readers.
    """
    ways = (comparison.way, comparison.against)
    for way in ways:
        if reason := results.failures.get(comparison.measure, {}).get(way):
            return Refusal(f"{names.get(way, way)} failed: {reason}")
        if lacking := results.states.get(way):
            return Refusal(f"{names.get(way, way)} did not reach the same state: not true that {', '.join(lacking)}")
    measured = results.samples.get(comparison.measure, {})
    ours, theirs = (measured.get(way, {}) for way in ways)
    rounds = sorted(set(ours) & set(theirs))
    if not rounds:
        return Refusal("not measured")
    for way in ways:
        if way not in results.states:
            return Refusal(f"the state of {names.get(way, way)} was not checked")
    if len(rounds) == 1:
        return Refusal("one round has no spread: measure at least two")
    ratios = [ours[number] / theirs[number] for number in rounds]
    ratio = Ratio(statistics.median(ratios), min(ratios), max(ratios), len(rounds))
    if ratio.lowest <= 1 <= ratio.highest and ratio.highest - ratio.lowest > ALIKE:
        return Refusal(
            f"the spread hides the difference: the ratios of {len(rounds)} rounds are from {ratio.lowest:.2f} to "
            f"{ratio.highest:.2f}"
        )
    return ratio


COMPARISONS: tuple[Comparison, ...] = (
    Comparison("fresh", "fresh machine to live site", "shell", "s", target=1.15),
    Comparison("fresh", "fresh machine to live site", "pyinfra", "s"),
    Comparison("fresh", "fresh machine to live site", "ansible", "s"),
    Comparison("unchanged", "second run, nothing to change", "shell", "s"),
    Comparison("unchanged", "second run, nothing to change", "pyinfra", "s", target=1.2),
    Comparison("unchanged", "second run, nothing to change", "ansible", "s"),
    Comparison("deploy", "deploy of changed code", "capistrano", "s"),
    Comparison("rollback", "rollback", "capistrano", "s"),
    Comparison("hosts", "second run on 8 hosts", "hosts 1", "s", way="hosts 8", target=2.5),
    Comparison("hosts", "second run on 12 hosts", "hosts 1", "s", way="hosts 12"),
    Comparison("small", "small JSON, 32 clients", "tutorial", "requests/s", more_is_better=True, target=1.3),
    Comparison("small", "small JSON, 32 clients", "gunicorn", "requests/s", more_is_better=True),
    Comparison("cpu", "processor time of the app for a small JSON", "gunicorn", "µs", target=1.11),
    Comparison(
        "slow", "handlers that wait 50 ms, 100 clients", "tutorial", "requests/s", more_is_better=True, target=3
    ),
    Comparison("slow", "handlers that wait 50 ms, 100 clients", "gunicorn", "requests/s", more_is_better=True),
)
NAMES: dict[str, str] = {
    OURS: "this project",
    "shell": "one script over SSH",
    "pyinfra": "pyinfra",
    "ansible": "Ansible as in tutorials",
    "capistrano": "the Capistrano way",
    "tutorial": "the tutorial's setup",
    "gunicorn": "gunicorn alone",
    "hosts 1": "1 host",
    "hosts 8": "8 hosts",
    "hosts 12": "12 hosts",
}


def all_ratios(
    results: Results, comparisons: Iterable[Comparison] = COMPARISONS
) -> list[tuple[Comparison, Ratio | Refusal]]:
    """Every comparison whose measure was taken, with its ratio or refusal."""
    return [
        (c, compare(c, results, NAMES))
        for c in comparisons
        if c.measure in results.samples or c.measure in results.failures
    ]
