"""The command line of script/bench."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks.computer import describe
from benchmarks.hosts import BENCHMARKS, PROJECT, BenchError, Lab, say
from benchmarks.ratios import Results, load_results
from benchmarks.report import table, write_page
from benchmarks.suite import SECTIONS, Suite

RESULTS = BENCHMARKS / "results.json"


def sections(text: str) -> tuple[str, ...]:
    """The sections of --only, in the order in which they run."""
    names = set(text.split(","))
    if unknown := names - set(SECTIONS):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}. Known are {', '.join(SECTIONS)}.")
    return tuple(section for section in SECTIONS if section in names)


def main(argv: list[str]) -> int:
    """Measure, print the table and write the page; 1 if something could not be measured."""
    parser = argparse.ArgumentParser(
        prog="script/bench", description="Measure this project beside what people use instead."
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--only", type=sections, default=SECTIONS, metavar="LIST", help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--dry-run", action="store_true", help="print what would be run")
    parser.add_argument(
        "--report", action="store_true", help="write docs/performance.md from the last results, without measuring"
    )
    parser.add_argument("--keep", action="store_true", help="do not remove the test machines at the end")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error("--rounds: at least 1")
    if args.report:
        results = load_results(RESULTS)
        write_page(PROJECT, results)
        print(table(results))
        return 0

    # So that the machines are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    results = Results()
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        with Lab(folder, dry=args.dry_run, keep=args.keep) as lab:
            Suite(lab, results, args.only).run(args.rounds)
    except BenchError as error:
        say(f"script/bench: {error}")
        return 1
    finally:
        if not args.keep:
            shutil.rmtree(folder)
    if args.dry_run:
        return 0
    results.computer = describe()
    if args.only == SECTIONS and args.rounds > 1:
        results.save(RESULTS)
        write_page(PROJECT, results)
    else:
        say("The page is written after two or more rounds of everything; this run was less.")
    print(table(results))
    return 1 if results.failures or any(results.states.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
