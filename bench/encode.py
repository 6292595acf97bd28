"""How fast one event is encoded: sse-hub's event classes, sse-starlette's, FastAPI's, and by hand.

    python -m bench.encode --rounds 31

The libraries take turns in short rounds on one pinned CPU; the table shows each one's median round in
nanoseconds per event. That all of them say the same is checked first, and that sse-hub's bytes are
sse-starlette's. `by hand` is an f-string, for JSON around what orjson makes: no line of text is split, no
field is checked, so it is a floor and not a library. FastAPI's column makes a `ServerSentEvent` and encodes
it as its routing does.
"""

import argparse
import gc
import json
import os
import statistics
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fastapi.sse
import sse_hub.event as ours
import sse_starlette.event as peer
from fastapi.encoders import jsonable_encoder
from fastapi.routing import _normalize_non_finite_floats

from bench import report

NAME, IDENTIFIER, DATA = "tick", "1042", "x" * 100
FIELDS = {"event": NAME, "id": IDENTIFIER, "data": DATA}
SMALL = {"symbol": "ACME", "price": 101.25, "volume": 1200, "open": True, "note": None}
LINES = ["0123456789abcdef"] * 1000
TEXT = "\n".join(LINES)
TOKEN = " token"
CRLF = "\r\n"
OURS, PEER, FASTAPI, HAND = "sse-hub", "sse-starlette", "fastapi.sse", "by hand"
PACKAGES = ("sse-hub", "sse-starlette", "fastapi", "orjson")

Encode = Callable[[], bytes]


@dataclass(frozen=True)
class Case:
    """What is encoded: how many in a round, and by whom."""

    name: str
    number: int
    encoders: dict[str, Encode]


def of_fastapi(**fields: Any) -> bytes:
    """One event as FastAPI's routing encodes a `ServerSentEvent` that an endpoint yields.

    There it is a function inside another, which nothing else can call: these are its steps.
    """
    event = fastapi.sse.ServerSentEvent(**fields)
    if event.raw_data is not None:
        text: str | None = event.raw_data
    elif event.data is None:
        text = None
    elif hasattr(event.data, "model_dump_json"):
        text = event.data.model_dump_json()
    else:
        text = json.dumps(_normalize_non_finite_floats(jsonable_encoder(event.data)))
    return fastapi.sse.format_sse_event(
        data_str=text, event=event.event, id=event.id, retry=event.retry, comment=event.comment
    )


def cases() -> list[Case]:
    """Everything that is measured."""
    return [*json_cases(), *text_cases()]


def json_cases() -> list[Case]:
    """Fields without a line end, and JSON."""
    import orjson  # of the dependency group `bench`, which the report does without

    return [
        Case(
            "dict with event, id and 100 bytes of data",
            4000,
            {
                OURS: lambda: ours.ensure_bytes(FIELDS, CRLF),
                PEER: lambda: peer.ensure_bytes(FIELDS, CRLF),
                FASTAPI: lambda: of_fastapi(event=NAME, id=IDENTIFIER, raw_data=DATA),
                HAND: lambda: f"id: {IDENTIFIER}\r\nevent: {NAME}\r\ndata: {DATA}\r\n\r\n".encode(),
            },
        ),
        Case(
            "small JSON event",
            2000,
            {
                OURS: lambda: ours.JSONServerSentEvent(SMALL).encode(),
                PEER: lambda: peer.JSONServerSentEvent(SMALL).encode(),
                FASTAPI: lambda: of_fastapi(data=SMALL),
                HAND: lambda: b"data: " + orjson.dumps(SMALL) + b"\r\n\r\n",
            },
        ),
        Case(
            "small JSON event with event and id",
            2000,
            {
                OURS: lambda: ours.JSONServerSentEvent(SMALL, event="tick", id="1042").encode(),
                PEER: lambda: peer.JSONServerSentEvent(SMALL, event="tick", id="1042").encode(),
                FASTAPI: lambda: of_fastapi(data=SMALL, event="tick", id="1042"),
                HAND: lambda: b"id: 1042\r\nevent: tick\r\ndata: " + orjson.dumps(SMALL) + b"\r\n\r\n",
            },
        ),
    ]


def text_cases() -> list[Case]:
    """Text, which is split into lines."""
    return [
        Case(
            "17 KB text of 1,000 lines",
            60,
            {
                OURS: lambda: ours.ensure_bytes(TEXT, CRLF),
                PEER: lambda: peer.ensure_bytes(TEXT, CRLF),
                FASTAPI: lambda: of_fastapi(raw_data=TEXT),
                HAND: lambda: ("data: " + TEXT.replace("\n", "\r\ndata: ") + "\r\n\r\n").encode(),
            },
        ),
        Case(
            "token of a few letters",
            4000,
            {
                OURS: lambda: ours.ensure_bytes(TOKEN, CRLF),
                PEER: lambda: peer.ensure_bytes(TOKEN, CRLF),
                FASTAPI: lambda: of_fastapi(raw_data=TOKEN),
                HAND: lambda: f"data: {TOKEN}\r\n\r\n".encode(),
            },
        ),
        Case(
            "ServerSentEvent object",
            2000,
            {
                OURS: lambda: ours.ServerSentEvent(TOKEN, event="tick").encode(),
                PEER: lambda: peer.ServerSentEvent(TOKEN, event="tick").encode(),
                FASTAPI: lambda: of_fastapi(raw_data=TOKEN, event="tick"),
            },
        ),
    ]


def meaning(frame: bytes) -> dict[str, Any]:
    """The fields of an encoded event; data that is JSON as its value, since its spacing is free."""
    lines = frame.decode().replace(CRLF, "\n").removesuffix("\n\n").split("\n")
    fields: dict[str, Any] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        fields[name] = f"{fields[name]}\n{value}" if name in fields else value
    if fields["data"].startswith("{"):
        fields["data"] = json.loads(fields["data"])
    return fields


def check(case: Case) -> None:
    """SystemExit unless all encode the same event, and sse-hub the same bytes as sse-starlette."""
    wanted = meaning(case.encoders[PEER]())
    for name, encode in case.encoders.items():
        if meaning(encode()) != wanted:
            raise SystemExit(f"{case.name}: {name} encodes {encode()!r}")
    if case.encoders[OURS]() != case.encoders[PEER]():
        raise SystemExit(f"{case.name}: the bytes differ")


def timed(case: Case, rounds: int) -> dict[str, dict[str, float]]:
    """Nanoseconds per event of each: median, lowest and highest round. Each round begins with another."""
    names = list(case.encoders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for index in range(-1, rounds):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            taken = timeit.timeit(case.encoders[name], number=case.number, timer=time.thread_time)
            if index >= 0:  # the first round warms up
                times[name].append(taken / case.number * 1e9)
    return {
        name: {"median": statistics.median(of), "min": min(of), "max": max(of)} for name, of in times.items()
    }


def measure(rounds: int, cpu: int | None = None) -> dict[str, Any]:
    """All cases, on one CPU (None: the last one this process may use)."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed) if cpu is None else cpu})
    gc.disable()
    try:
        results = []
        for case in cases():
            check(case)
            results.append({"name": case.name, "ns": timed(case, rounds)})
    finally:
        gc.enable()
        os.sched_setaffinity(0, allowed)
    return report.without_servers("encode", rounds, PACKAGES, results)


def table(document: dict[str, Any]) -> str:
    """The table: medians with their spread, and how many times as long as sse-hub's each takes."""
    names = (OURS, PEER, FASTAPI, HAND)
    lines = ["| ns per event | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for result in document["results"]:
        cells = []
        for name in names:
            of = result["ns"].get(name)
            if of is None:
                cells.append("-")
                continue
            ratio = of["median"] / result["ns"][OURS]["median"]
            times = "" if name == OURS else f" **{ratio:.1f}x**"
            cells.append(f"{of['median']:,.0f} ({of['min']:,.0f} to {of['max']:,.0f}){times}")
        lines.append(f"| {result['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.encode", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=101, help="[%(default)s]")
    parser.add_argument("--cpu", type=int, help="[the last one]")
    options = parser.parse_args()
    document = measure(options.rounds, options.cpu)
    print(table(document))
    print("\n" + report.provenance(document["machine"], document["versions"]))


if __name__ == "__main__":
    main()
