"""What importing costs when a process starts: fresh processes, by turns.

    python -m bench.imports --rounds 15

Each process imports one thing and reports how long that took and what it used; the modules are compiled
before (one round is not counted). `starlette.responses` is what both libraries build on.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import Any

from bench import report
from bench.servers import ROOT

WHAT = ("sse_hub", "sse_starlette", "fastapi.sse", "starlette.responses")
PACKAGES = ("sse-hub", "sse-starlette", "fastapi", "starlette")
CHILD = """
import json, os, sys, time
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
memory = resident()
before, wall, cpu = len(sys.modules), time.perf_counter(), time.process_time()
import {what}
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps({{"wall_ms": wall * 1e3, "cpu_ms": cpu * 1e3,
    "modules": len(sys.modules) - before, "rss_mb": resident() - memory}}))
"""


def once(what: str, cpu: int) -> dict[str, float]:
    """One fresh process."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python")}
    command = ["taskset", "-c", str(cpu), sys.executable, "-c", CHILD.format(what=what)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(rounds: int) -> dict[str, Any]:
    """All of them, in rounds that begin with another one each."""
    cpu = max(os.sched_getaffinity(0))
    runs: dict[str, list[dict[str, float]]] = {what: [] for what in WHAT}
    for number in range(-1, rounds):
        turn = number % len(WHAT)
        for what in WHAT[turn:] + WHAT[:turn]:
            found = once(what, cpu)
            if number >= 0:
                runs[what].append(found)
    return report.without_servers("imports", rounds, PACKAGES, runs)


def table(document: dict[str, Any]) -> str:
    """The table: medians with their spread."""
    lines = ["| import | time, ms | CPU, ms | modules | memory (RSS), MB |", "|---|---|---|---|---|"]
    for what, runs in document["results"].items():
        cells = []
        for key, digits in (("wall_ms", 1), ("cpu_ms", 1), ("modules", 0), ("rss_mb", 1)):
            values = [run[key] for run in runs]
            low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
            spread = "" if low == high else f" ({low} to {high})"
            cells.append(f"{statistics.median(values):.{digits}f}{spread}")
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.imports", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=15, help="[%(default)s]")
    document = measure(parser.parse_args().rounds)
    print(table(document))
    print("\n" + report.provenance(document["machine"], document["versions"]))


if __name__ == "__main__":
    main()
