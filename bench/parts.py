"""What the suite consists of.

The sizes are chosen so that all parts together take about 50 minutes on an idle machine with two cores, the
quick ones about three, after what is compiled is compiled.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One part of the suite.

    `words` are `bench.run`'s, or name a measurement without servers (encode, imports). `minutes` is what it
    takes on two cores. `baseline` is what ratios refer to.
    """

    name: str
    title: str
    words: tuple[str, ...]
    rounds: int
    minutes: float
    baseline: str = "sse-hub handed off"


def _part(
    name: str,
    title: str,
    words: str,
    servers: str,
    rounds: int,
    minutes: float,
    baseline: str = "sse-hub handed off",
) -> Part:
    chosen = ("--servers", servers) if servers else ()
    return Part(name, title, (*words.split(), *chosen), rounds, minutes, baseline)


OURS = "sse-hub,sse-hub handed off"
OVER_REDIS = "sse-hub over Redis on 4 workers"
ON_WORKERS = f"sse-hub over files on 4 workers,{OVER_REDIS}"
BOTH = "--server-cores 0,1"
MAIN = f"sse-starlette,{OURS},go,axum"
# Who sends heartbeats of its own accord.
BEATS = f"sse-starlette,{OURS},fastapi.sse,axum"
# fastapi.sse would be saturated for minutes: so it is in replay too.
WIDE = f"{MAIN},starlette,raw-asgi,node,nchan,bare,sse-hub on granian,sse-hub on hypercorn"

FULL = (
    _part("fanout", "Steady fan-out", "fanout --clients 500,2000,8000 --seconds 5", "", 2, 13),
    _part("growth", "Growth", "growth --seconds 4", MAIN, 2, 8.5),
    _part("burst", "A burst of 200 events", "burst --clients 500", WIDE, 3, 1),
    _part(
        "replay",
        "1,000 clients come back at once, 1,000 events behind",
        "replay",
        f"sse-starlette,{OURS},nchan",
        3,
        1,
    ),
    Part("tokens", "Token streams that never wait", ("tokens", "--events", "1000"), 5, 1.6, "starlette"),
    Part(
        "tokens-pause",
        "Token streams that wait before each event",
        ("tokens", "--events", "1000", "--pause", "0"),
        5,
        1.8,
        "starlette",
    ),
    Part(
        "tokens-queue",
        "Token streams that come through a queue",
        (
            "tokens",
            "--events",
            "1000",
            "--queue",
            "--servers",
            "sse-starlette,sse-hub,sse-hub handed off,starlette,bare loop",
        ),
        5,
        1.3,
        "starlette",
    ),
    _part(
        "generators",
        "Open streams of generators",
        "generators --clients 2000 --seconds 1",
        "sse-starlette,sse-hub,sse-hub handed off,StreamingResponse",
        5,
        1.5,
        "StreamingResponse",
    ),
    _part(
        "generators-churn",
        "Clients of generators that come and go",
        "generators-churn --seconds 2",
        "sse-starlette,sse-hub,sse-hub handed off,StreamingResponse",
        5,
        1,
        "StreamingResponse",
    ),
    Part("runs", "Runs, a watcher for each", ("runs",), 5, 1.5, "sse-hub generator"),
    Part(
        "runs-watchers", "Runs, ten watchers for each", ("runs", "--watchers", "10"), 5, 1.5, "sse-starlette"
    ),
    Part("runs-redis", "Runs over Redis", ("runs-redis",), 3, 1, "resumable-stream"),
    Part("others", "Other requests of a process with sse_hub", ("others",), 5, 1.6),
    _part(
        "stalled",
        "9,000 clients beside 1,000 that read nothing, and without them",
        "stalled --clients 10000 --seconds 6",
        MAIN,
        2,
        8,
    ),
    _part(
        "probe",
        "An unrelated endpoint meanwhile, server on both cores",
        "probe --clients 8000 --seconds 5 --server-cores 0,1",
        MAIN,
        2,
        4,
    ),
    _part("idle", "Idle clients and their heartbeats", "idle --clients 2000 --seconds 16", BEATS, 2, 3),
    _part("churn", "Clients that come and go", "churn --seconds 3", f"{MAIN},starlette,node,nchan", 5, 2),
    _part(
        "publish",
        "What publish() costs its caller",
        "publish --events 120 --limit sse-starlette=1000",
        f"{OURS},sse-starlette",
        2,
        2.5,
    ),
    _part(
        "rate",
        "Twenty values a second over ten keys, with five writes a second, and without",
        "rate --clients 2000,8000 --seconds 5",
        OURS,
        2,
        4,
    ),
    _part(
        "compress",
        "Ticks of 115 bytes to clients that accept gzip, and to clients that do not",
        "compress --clients 500,2000 --seconds 5",
        f"{OURS},GZipMiddleware",
        2,
        4,
    ),
    _part(
        "compress-table",
        "A table of 2 KB, sent again with one row changed, likewise",
        "compress-table --clients 500,2000 --seconds 5",
        f"{OURS},GZipMiddleware",
        2,
        4,
    ),
    _part(
        "redis",
        "Through Redis, one event after another",
        "redis --rate 4 --seconds 5",
        "",
        3,
        2,
    ),
    _part("redis-burst", "Through Redis, 200 events at once", "redis-burst", "", 3, 1),
    _part(
        "workers", "Four workers, one event after another", f"workers {BOTH}", ON_WORKERS, 3, 1, OVER_REDIS
    ),
    _part(
        "workers-burst", "Four workers, 500 at a time", f"workers-burst {BOTH}", ON_WORKERS, 3, 1, OVER_REDIS
    ),
    Part("encode", "Encoding alone", ("encode",), 31, 0.2),
    Part("imports", "What an import costs a process that starts", ("imports",), 11, 0.2),
)
QUICK = (
    _part(
        "quick-fanout",
        "Steady fan-out",
        "fanout --clients 2000 --rate 2 --seconds 4",
        f"{MAIN},node,bare",
        1,
        1.0,
    ),
    _part("quick-burst", "A burst of 200 events", "burst --clients 200", f"{OURS},sse-starlette,go", 1, 0.3),
    _part(
        "quick-replay",
        "200 clients come back at once, 1,000 events behind",
        "replay --clients 200",
        f"{OURS},sse-starlette",
        1,
        0.2,
    ),
    Part(
        "quick-tokens",
        "Token streams that never wait",
        ("tokens", "--events", "1000", "--servers", "sse-starlette,sse-hub"),
        1,
        0.2,
        "sse-hub",
    ),
    Part("quick-encode", "Encoding alone", ("encode",), 7, 0.1),
    Part("quick-imports", "What an import costs a process that starts", ("imports",), 3, 0.1),
)
