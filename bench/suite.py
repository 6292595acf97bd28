"""Every part of the comparison, one after another, in as many sittings as one likes.

    python -m bench.suite                        # all parts: about 50 minutes
    python -m bench.suite --only fanout,growth   # these only; what other parts left behind stays
    python -m bench.suite --resume               # only what is missing, after a run that was cut short
    python -m bench.suite --quick                # a few servers and workloads, one round: about three minutes
    python -m bench.suite --list

Each part writes NAME.json into bench/results/ after every single run. The report and its plots are then made
from all the JSON that is there, as `python -m bench.render` does.
"""

import argparse
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bench import encode, imports, others, render, report, run
from bench.parts import FULL, QUICK, Part


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.suite", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="a few servers and workloads, one round")
    add("--only", help="comma-separated parts")
    add("--rounds", type=int, help="instead of each part's own number")
    add("--resume", action="store_true", help="go on where the JSON ends; what is complete stays")
    add("--list", action="store_true", help="name the parts and what they take, and end")
    add("--out", type=Path, default=render.RESULTS, help="where the results go [bench/results]")
    return parser.parse_args()


def asked(args: argparse.Namespace) -> list[Part]:
    """The parts to run; SystemExit for a name that there is not."""
    parts = QUICK if args.quick else FULL
    if not args.only:
        return list(parts)
    names = {part.name.removeprefix("quick-"): part for part in parts}
    wanted = [name.removeprefix("quick-") for name in args.only.split(",")]
    if unknown := [name for name in wanted if name not in names]:
        sys.exit(f"no part {', '.join(unknown)}; there are: {', '.join(names)}")
    return [names[name] for name in wanted]


def saved(path: Path) -> report.Document | None:
    """What an earlier run left there."""
    if not path.exists():
        return None
    document: report.Document = json.loads(path.read_text())
    return document


def alone(part: Part, rounds: int, measure: Callable[[int], report.Document]) -> report.Document:
    """A measurement without servers, which is short: made whole or not at all."""
    began = datetime.now(UTC)
    document = measure(rounds)
    seconds = (datetime.now(UTC) - began).total_seconds()
    fixed = {"began": began.isoformat(timespec="seconds"), "seconds": round(seconds, 1), "complete": True}
    return document | fixed | {"title": part.title}


def perform(part: Part, args: argparse.Namespace) -> report.Document:
    """Run one part, or what is missing of it; its JSON grows with every run."""
    path = args.out / f"{part.name}.json"
    rounds = args.rounds or part.rounds
    previous = saved(path) if args.resume else None

    def save(document: report.Document) -> None:
        # A run that is killed leaves the last state, not half of one.
        passing = path.with_suffix(".tmp")
        passing.write_text(json.dumps(document | {"title": part.title}, indent=1) + "\n")
        passing.replace(path)

    simple = {"encode": encode.measure, "imports": imports.measure, "others": others.measure}.get(
        part.words[0]
    )
    if simple is None:
        words = [*part.words, "--rounds", str(rounds), "--baseline", part.baseline]
        return run.execute(run.parse(words), previous, save)
    if previous is not None and previous["options"] == {"rounds": rounds}:
        return previous
    document = alone(part, rounds, simple)
    save(document)
    return document


def main() -> None:
    """Run the parts; the report is made anew after each, so that what is done can be read."""
    args = parse()
    parts = asked(args)
    if args.list:
        for part in QUICK if args.quick else FULL:
            print(f"{part.name:14} {part.minutes:5.1f} min  {part.title}")
        return
    run.end_orderly()
    args.out.mkdir(parents=True, exist_ok=True)
    without: list[str] = []
    for part in parts:
        # On standard error, as each run's line: standard output is the report.
        print(f"== {part.name}, about {part.minutes} min", file=sys.stderr, flush=True)
        document = perform(part, args)
        print(f"## {part.title}\n\n{render.section(document)}\n", flush=True)
        render.render(args.out, quick=args.quick)
        if "pinning" in document:
            without += [f"{part.name}: {what}" for what in run.failed(document)]
    if without:
        sys.exit("no valid run: " + "; ".join(without))


if __name__ == "__main__":
    main()
