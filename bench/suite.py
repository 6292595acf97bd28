"""Every workload that the comparison consists of, one after another.

    python -m bench.suite           # an hour or two: all servers, five rounds
    python -m bench.suite --quick   # under three minutes: a few servers and workloads, one round
    python -m bench.suite --only burst,idle

Ratios are to sse-hub in the same round. Prints Markdown and writes it, with each workload's measurements as
JSON, into bench/results/.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench import run, servers

RESULTS = servers.ROOT / "bench" / "results"


@dataclass(frozen=True)
class Part:
    """A workload as `bench.run` is asked for it; `name` is the JSON file's."""

    name: str
    title: str
    words: tuple[str, ...]


FULL = (
    Part(
        "fanout", "Steady fan-out", ("fanout", "--clients", "500,2000,8000", "--rate", "1", "--seconds", "20")
    ),
    Part("burst", "A burst of 200 events", ("burst", "--clients", "500")),
    Part("stalled", "A tenth of the clients reads nothing", ("stalled", "--seconds", "20")),
    Part(
        "probe",
        "An unrelated endpoint meanwhile, server on both cores",
        ("probe", "--seconds", "10", "--server-cores", "0,1", "--timeout", "60"),
    ),
    Part("idle", "Idle clients", ("idle", "--clients", "2000", "--seconds", "20")),
    Part("churn", "Clients that come and go", ("churn",)),
    Part("tokens", "Token streams", ("tokens",)),
)
MAIN = "sse-starlette,sse-hub,sse-hub handed off,go"
QUICK = (
    Part(
        "quick-fanout",
        "Steady fan-out",
        (
            "fanout",
            "--clients",
            "2000",
            "--rate",
            "2",
            "--seconds",
            "4",
            "--servers",
            f"{MAIN},node,bare",
        ),
    ),
    Part("quick-burst", "A burst of 200 events", ("burst", "--clients", "200", "--servers", MAIN)),
    Part(
        "quick-stalled",
        "A tenth of the clients reads nothing",
        ("stalled", "--clients", "1000", "--seconds", "3", "--servers", MAIN),
    ),
)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.suite", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="a few servers and workloads, one round")
    add("--rounds", type=int, help="[5; quick: 1]")
    add("--only", help="comma-separated parts")
    add("--out", type=Path, default=RESULTS, help="where the results go [bench/results]")
    return parser.parse_args()


def main() -> None:
    """Run all parts; what is done is written even where a later one fails."""
    args = parse()
    parts: tuple[Part, ...] = QUICK if args.quick else FULL
    if args.only:
        parts = tuple(part for part in parts if part.name.removeprefix("quick-") in args.only.split(","))
    rounds = str(args.rounds or (1 if args.quick else 5))
    args.out.mkdir(parents=True, exist_ok=True)
    target = args.out / ("quick.md" if args.quick else "results.md")
    sections = [f"# The benchmark, {datetime.now(UTC):%Y-%m-%d}"]
    without: list[str] = []
    for part in parts:
        baseline = "sse-hub" if part.words[0] == "tokens" else "sse-hub handed off"
        words = [*part.words, "--rounds", rounds, "--baseline", baseline]
        text, document = run.execute(run.parse(words))
        print(f"## {part.title}\n\n{text}\n", flush=True)
        sections.append(f"## {part.title}\n\n{text}")
        (args.out / f"{part.name}.json").write_text(json.dumps(document, indent=1) + "\n")
        target.write_text("\n\n".join(sections) + "\n")
        without += [f"{part.name}: {what}" for what in run.failed(document)]
    print(f"written: {target}", file=sys.stderr)
    if without:
        sys.exit("no valid run: " + "; ".join(without))


if __name__ == "__main__":
    main()
