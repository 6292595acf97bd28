"""How fast events are encoded, beside sse-starlette, in one run: ``python bench/encode.py``.

Both libraries take turns in short rounds on one pinned CPU; the table shows each one's median round in
nanoseconds per event, and how many times as fast ours is. That both give the same bytes is checked first.
Exits with 1 when a ratio is below its target (``--no-check``: never).
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
import timeit
from collections.abc import Callable
from functools import partial
from typing import Any

import sse_hub.event as ours
import sse_starlette.event as peer

FIELDS = {"event": "tick", "id": "1042", "data": "x" * 100}
SMALL = {"symbol": "ACME", "price": 101.25, "volume": 1200, "open": True, "note": None}
TEXT = "\n".join(["0123456789abcdef"] * 1000)
CRLF = "\r\n"

Case = tuple[str, float, int, Callable[[Any], bytes]]

# Name, target, events per round, what is measured.
CASES: list[Case] = [
    ("dict with event, id and 100 bytes of data", 5.0, 4000, lambda lib: lib.ensure_bytes(FIELDS, CRLF)),
    ("small JSON event", 6.0, 2000, lambda lib: lib.JSONServerSentEvent(SMALL).encode()),
    (
        "small JSON event with event and id",
        0.0,
        2000,
        lambda lib: lib.JSONServerSentEvent(SMALL, event="tick", id="1042").encode(),
    ),
    ("17 KB text of 1,000 lines", 15.0, 60, lambda lib: lib.ensure_bytes(TEXT, CRLF)),
    ("token of a few letters", 0.0, 4000, lambda lib: lib.ensure_bytes(" token", CRLF)),
    (
        "ServerSentEvent object",
        0.0,
        2000,
        lambda lib: lib.ServerSentEvent(" token", event="tick").encode(),
    ),
]


def measure(case: Case, rounds: int) -> tuple[float, float]:
    """Median nanoseconds per event of the peer and of ours."""
    _, _, number, run = case
    times: dict[Any, list[float]] = {peer: [], ours: []}
    for lib in times:
        timeit.timeit(partial(run, lib), number=number, timer=time.thread_time)
    for index in range(rounds):
        for lib in (peer, ours) if index % 2 else (ours, peer):
            times[lib].append(timeit.timeit(partial(run, lib), number=number, timer=time.thread_time))
    theirs, mine = (statistics.median(times[lib]) / number * 1e9 for lib in (peer, ours))
    return theirs, mine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--no-check", action="store_true", help="exit with 0 whatever the ratios are")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.cpu})
    gc.disable()
    missed = 0
    print(f"{'':44}{'sse-starlette':>14}{'sse-hub':>10}{'ratio':>8}{'target':>8}")
    for case in CASES:
        name, target, _, run = case
        if run(peer) != run(ours):
            raise SystemExit(f"{name}: the bytes differ")
        theirs, mine = measure(case, options.rounds)
        ratio = theirs / mine
        missed += ratio < target
        wanted = f"{target:.0f}x" if target else ""
        print(f"{name:44}{theirs:11.0f} ns{mine:7.0f} ns{ratio:7.1f}x{wanted:>8}")
    return 1 if missed and not options.no_check else 0


if __name__ == "__main__":
    sys.exit(main())
