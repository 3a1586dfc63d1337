"""The results as a table for the terminal, and as the page docs/performance.md with its plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.plots import Bar, plot, short
from benchmarks.ratios import COMPARISONS, NAMES, OURS, Comparison, Ratio, Refusal, Results, all_ratios, medians

PAGE, PLOTS = "docs/performance.md", "docs/performance"
NOTES = "benchmarks/notes.md"
# Seconds that this project may take at most.
LIMITS = {"deploy": 5.0, "rollback": 2.5}
TITLES = {c.measure: (c.title, c.unit, c.more_is_better) for c in COMPARISONS} | {
    "hosts": ("second run on several hosts, nothing to change", "s", False),
    "deploy under load": ("deploy of changed code, with 8 clients", "s", False),
}
HEAD = """# Performance

`script/bench` has measured this project beside what people use instead, and has written this page. Do not edit it:
change `benchmarks/`, or write what explains a result into `benchmarks/notes.md`, and run `script/bench --report`.
"""
METHOD = """## How it is measured

`script/bench` measures each way once in each round, in another order than in the round before, on fresh test machines.
A ratio is this project's value divided by the other's in the same round; the table has the median of the rounds and
their range. There is no ratio if a way did not reach the same state, or if the range includes 1.

The same state is what `benchmarks/state.sh` and `benchmarks/state.py` check: the same Debian packages; nginx with the
site; the app as a sandboxed service of an unprivileged user who can't write its code; the same open ports; SSH by key
for the administrator only; fail2ban, security updates, kernel settings; responses, headers and compression, as clients
get them. The other ways do no more than that. This project also installs uv, the program that renews certificates,
sandboxes of nginx and fail2ban, and what undoes a change that locks the administrator out. Each run opens new SSH
connections.

- One script over SSH, `benchmarks/shell`: a shell script that changes only what differs, sent and run over one
  connection.
- pyinfra, `benchmarks/pyinfra`: about 40 operations, one of them for all packages.
- Ansible as in tutorials, `benchmarks/ansible`: a task for each package, file and rule, with Ansible's default
  settings.
- The Capistrano way, `benchmarks/capistrano`: a folder for each release, a link, `systemctl restart`.
- The tutorial's setup, `benchmarks/tutorial`: three of gunicorn's default workers on a TCP port, nginx as Debian
  configures it.
- gunicorn alone, `benchmarks/gunicorn`: gunicorn's `gthread` without nginx, with as many workers and threads as this
  project.

What is measured:

- Fresh machine: from the first login to the first response of the site, without the boot.
- Second run: the same command again. A run that reports a change is not measured.
- Deploy: changed code of the app, until the new version answers, with plain HTTP. This project's time includes the
  three seconds for which it watches the new release. During a second deploy, 8 clients send GET and POST requests.
- Rollback: until the previous version answers.
- Several hosts: all on this computer, so they share its processors.
- Serving: `wrk` asks for a small JSON over 32 connections, and for a handler that waits 50 ms over 100, on the machine
  that `site.yml` has set up. The app is the same. Processor time is that of the app's processes, without nginx.
"""


def target_of(comparison: Comparison) -> str:
    """The target as text."""
    if comparison.target is None:
        return ""
    return f"{'≥' if comparison.more_is_better else '≤'} {comparison.target:g}"


def label(comparison: Comparison) -> str:
    """What a comparison compares with, for readers."""
    return NAMES.get(comparison.against, comparison.against)


def row(comparison: Comparison, found: Ratio | Refusal) -> tuple[str, ...]:
    """The cells of a comparison."""
    if isinstance(found, Refusal):
        return comparison.title, label(comparison), "refused", "", target_of(comparison)
    reached = {True: " reached", False: " missed", None: ""}[found.reaches(comparison)]
    spread = f"{found.lowest:.2f} to {found.highest:.2f}, {found.rounds} rounds"
    return comparison.title, label(comparison), f"{found.median:.2f}", spread, f"{target_of(comparison)}{reached}"


RATIO_COLUMNS = ("what", "beside", "ratio", "range", "target")


def reasons(results: Results) -> list[str]:
    """Why comparisons were refused, one line for each."""
    return [
        f"{comparison.title}, beside {label(comparison)}: {found.reason}"
        for comparison, found in all_ratios(results)
        if isinstance(found, Refusal)
    ]


def values(results: Results) -> list[tuple[str, ...]]:
    """The rows of all medians and ranges."""
    rows: list[tuple[str, ...]] = []
    for measure in results.samples:
        title, unit, _ = TITLES.get(measure, (measure, "", False))
        for way, (median, lowest, highest) in medians(results, measure).items():
            limit = LIMITS.get(measure) if way == OURS else None
            note = f"≤ {limit:g} {unit} {'reached' if median <= limit else 'missed'}" if limit else ""
            spread = f"{short(lowest)} to {short(highest)}"
            rows.append((title, NAMES.get(way, way), f"{short(median)} {unit}", spread, note))
    return rows


def aligned(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A table for the terminal."""
    widths = [max(len(line[i]) for line in [columns, *rows]) for i in range(len(columns))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [columns, *rows]
    ]


def table(results: Results) -> str:
    """The results for the terminal: values, ratios, refusals, lost requests."""
    lines = aligned(("what", "way", "median", "range", "target"), values(results)) if results.samples else []
    if ratios := all_ratios(results):
        lines += ["", *aligned(RATIO_COLUMNS, [row(*pair) for pair in ratios])]
    if refused := reasons(results):
        lines += ["", "Refused:", *(f"- {reason}" for reason in refused)]
    for way, (sent, failed) in results.lost.items():
        lines += ["", f"Requests during deploys, {NAMES[way]}: {failed} of {sent} failed"]
    return "\n".join(lines) or "Nothing has been measured."


def markdown(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table for the page."""
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n"


def plots(results: Results) -> dict[str, str]:
    """The plots, by the names of their files."""
    drawn = {}
    for measure in results.samples:
        title, unit, more_is_better = TITLES.get(measure, (measure, "", False))
        bars = [
            Bar(NAMES.get(way, way), *numbers, ours=way == OURS or measure == "hosts")
            for way, numbers in medians(results, measure).items()
        ]
        better = "more is better" if more_is_better else "less is better"
        drawn[f"{measure.replace(' ', '-')}.svg"] = plot(f"{title} ({better})", unit, bars)
    return drawn


def page(results: Results, notes: str = "") -> str:
    """The page docs/performance.md.

    Args:
        results: what was measured.
        notes: what explains the results, as Markdown.
    """
    if not results.samples:
        return f"{HEAD}\nNothing has been measured yet.\n\n{METHOD}"
    parts = [HEAD, "## Ratios\n", "Less than 1 is faster for times; more than 1 is faster for requests a second.\n"]
    parts.append(markdown(RATIO_COLUMNS, [row(*pair) for pair in all_ratios(results)]))
    if refused := reasons(results):
        parts += ["Refused comparisons:\n", "\n".join(f"- {reason}" for reason in refused) + "\n"]
    if results.lost:
        lost = [(NAMES[way], f"{sent:,}", f"{failed:,}") for way, (sent, failed) in results.lost.items()]
        parts += ["## Requests during deploys\n", markdown(("way", "sent", "failed"), lost)]
    parts.append("## Values\n")
    parts += [f"![{Path(name).stem}](performance/{name})\n" for name in plots(results)]
    parts.append(markdown(("what", "way", "median", "range", "target"), values(results)))
    parts += [notes] if notes else []
    parts += ["## The computer\n", markdown(("property", "value"), list(results.computer.items())), METHOD]
    return "\n".join(parts)


def write_page(project: Path, results: Results) -> None:
    """Write the page and its plots; remove plots of measures that no longer exist."""
    folder = project / PLOTS
    drawn = plots(results)
    if drawn:
        folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        if old.name not in drawn:
            old.unlink()
    for name, text in drawn.items():
        (folder / name).write_text(text)
    notes = project / NOTES
    (project / PAGE).write_text(page(results, notes.read_text() if notes.exists() else ""))
