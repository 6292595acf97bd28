"""The workloads: what the load generator is asked to do, and what of its report goes into the table."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A column of the table: where its value stands in the report, and how it is shown."""

    title: str
    path: str
    scale: float = 1.0
    digits: int = 1
    ratio: bool = False

    def value(self, report: dict[str, Any]) -> float | None:
        """The value in a run's report; None where it has none."""
        found: Any = report
        for key in self.path.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        return None if found is None else float(found) * self.scale


@dataclass(frozen=True)
class Twin:
    """The same without what a workload is about.

    In every round each server is measured both ways, one after the other, and ratios are between the two.
    `row` is what its rows are called, behind the server's name; `args` makes its options from the other's.
    """

    row: str
    args: Callable[[Namespace], Namespace]


@dataclass(frozen=True)
class Workload:
    """A workload: the load generator's mode, its options from the command line's, columns, clients.

    Those of `across` have a table of their own, a column for each number of clients, instead. `paced`: events
    are due at their times, which a server may be unable to keep. `together`: a server is charged for what its
    companion computes.
    """

    mode: str
    options: Callable[[Namespace], dict[str, object]]
    metrics: tuple[Metric, ...]
    clients: str = "2000"
    across: tuple[Metric, ...] = ()
    twin: Twin | None = None
    paced: bool = False
    together: bool = False


CLIENTS = Metric("clients", "clients", digits=0)
# How many of them the server still counts when all is over: one that drops who stalls is seen here.
STAYED = Metric("of them afterwards", "subscribers_after", digits=0)
CPU = Metric("CPU per event, µs", "cpu_per_event_us", digits=2, ratio=True)
PUBLISHED = Metric("CPU per published event, µs", "cpu_per_published_us", digits=2, ratio=True)
RSS = Metric("RSS per client, KB", "rss_per_client", 1 / 1000, ratio=True)
PEAK = Metric("RSS at most, MB", "rss_peak", 1e-6, digits=0)
CONNECT = Metric("CPU per connect, µs", "cpu_per_connect_us", digits=0)
BUSY = Metric("server busy, %", "server_cpu_share", 100, 0)
LOAD = Metric("load busy, %", "load_cpu_share", 100, 0)
# Much of it says that others were on the load's core.
WAITED = Metric("load waited for its core, %", "load_wait_share", 100, 0)
LATENCY = tuple(
    Metric(f"latency {key}, ms", f"received.latency.{key}_us", 1e-3, ratio=key == "p99")
    for key in ("p50", "p99", "max")
)


def _paced(args: Namespace, rate: float) -> dict[str, object]:
    rate = args.rate if args.rate is not None else rate
    n = args.events or max(1, round(args.seconds * rate))
    probe = {"probe": "/ping"} if args.probe else {}
    return {"n": n, "rate": rate, "batch": args.batch or 1, "stalled": args.stalled, **probe}


def _fanout(args: Namespace) -> dict[str, object]:
    """From 2,000 clients on as many deliveries a second at each size."""
    return _paced(args, min(4.0, 8000 / args.clients))


def _growth(args: Namespace) -> dict[str, object]:
    """As many deliveries a second at each size, so that no server is saturated at the large ones only."""
    rate = min(10.0, 8000 / args.clients) if args.rate is None else args.rate
    return {"n": args.events or max(4, round(args.seconds * rate)), "rate": rate, "warmup": 2}


def _publish(args: Namespace) -> dict[str, object]:
    """Calls in groups, back to back, a second from one to the next: the call is timed, not the clock."""
    batch = 20 if args.batch is None else args.batch
    return {
        "n": args.events or 3 * batch,
        "batch": batch,
        "rate": args.rate if args.rate is not None else batch,
        "warmup": batch,
        "publish": args.publish_path,
    }


def _stalling(args: Namespace) -> int:
    return args.clients // 10 if args.stalled is None else int(args.stalled)


def _stalled(args: Namespace) -> dict[str, object]:
    # What is then published stays far below what the kernel holds for each: it must be full before, which is
    # warm-up enough.
    return _paced(args, 1.0) | {"stalled": _stalling(args), "fill": 32, "warmup": 1}


def _none_stalled(args: Namespace) -> Namespace:
    """The clients that read, without the others."""
    return Namespace(**vars(args) | {"clients": args.clients - _stalling(args), "stalled": 0})


def _probe(args: Namespace) -> dict[str, object]:
    return _paced(args, 10.0) | {"probe": "/ping"}


def _rate(args: Namespace) -> dict[str, object]:
    path = f"/events?rate={args.writes}" if args.writes else "/events"
    return _paced(args, 20.0) | {"path": path, "publish": "/publish-values"}


def _no_rate(args: Namespace) -> Namespace:
    """Every value is written when it comes."""
    return Namespace(**vars(args) | {"writes": 0})


def _compress(args: Namespace) -> dict[str, object]:
    """80 bytes of data are 115 on the wire, with the id and the ends of lines."""
    return _compressed(args) | {"bytes": 80, "publish": "/publish-ticks"}


def _compress_table(args: Namespace) -> dict[str, object]:
    return _compressed(args) | {"bytes": 2048, "publish": "/publish-tables"}


def _compressed(args: Namespace) -> dict[str, object]:
    chosen = (
        {"accept": None, "path": "/events"}
        if args.plain
        else {"accept": "gzip", "path": "/events?compress=1"}
    )
    return _fanout(args) | {"warmup": 5} | chosen


def _plain(args: Namespace) -> Namespace:
    """Clients that accept no coding."""
    return Namespace(**vars(args) | {"plain": True})


def _burst(args: Namespace) -> dict[str, object]:
    n = args.events or 200
    return {"n": n, "rate": 0, "batch": n, "warmup": 1}


def _workers(args: Namespace) -> dict[str, object]:
    """Each event is awaited before the next."""
    return _paced(args, 100.0) | {"warmup": 100, "rate": args.rate or 100.0}


def _workers_burst(args: Namespace) -> dict[str, object]:
    """Each batch is awaited before the next."""
    return {"n": args.events or 50_000, "rate": 0, "batch": args.batch or 500, "warmup": 1000}


def _tokens(args: Namespace) -> dict[str, object]:
    n = args.events or 2000
    pause = "" if args.pause is None else f"&pause={args.pause}"
    queue = "&queue=1" if args.queue else ""
    path = f"/tokens?n={n}&bytes={args.bytes}{pause}{queue}"
    return {"n": n, "path": path, "warmup": 1, "repeat": args.repeat}


def _runs(args: Namespace) -> dict[str, object]:
    n = args.events or 1000
    pause = 0.0 if args.pause is None else args.pause
    path = f"/tokens?n={n}&bytes={args.bytes}&pause={pause}&watchers={args.watchers}"
    return {"n": n, "path": path, "warmup": 1, "repeat": args.repeat}


def _replay(args: Namespace) -> dict[str, object]:
    return {"n": args.events or 1000, "warmup": 1}


def _waiting(args: Namespace) -> dict[str, object]:
    """Streams of generators that wait; nothing counts them."""
    return {"duration": args.seconds, "path": "/waiting", "count": ""}


def _missed(args: Namespace) -> dict[str, object]:
    return {"n": args.events or 2000, "warmup": 1}


def _timed(args: Namespace) -> dict[str, object]:
    return {"duration": args.seconds}


LAST = tuple(
    Metric(f"last client {key}, ms", f"received.last_client_latency.{key}_us", 1e-3, ratio=True)
    for key in ("p50", "p99")
)
FIRST = tuple(
    Metric(f"first event {key}, ms", f"received.first_event.{key}_us", 1e-3, ratio=key == "p50")
    for key in ("p50", "p99")
)
WIRE = Metric("bytes per event", "bytes_per_event", digits=1, ratio=True)
SPEED = Metric("events per s", "received.events_per_s", digits=0)
DELIVERY = (*LATENCY, *LAST)
PROBE = tuple(
    Metric(f"/ping {key}, ms", f"probe.{key}_us", 1e-3, ratio=key == "p99") for key in ("p50", "p99", "max")
)
PUBLISH = Metric("publish(), µs", "publish_us", digits=2, ratio=True)
REDIS = Metric("Redis CPU per published event, µs", "publisher.redis_us", digits=0)
HEARTBEAT = Metric("CPU per heartbeat, µs", "cpu_per_heartbeat_us", digits=2, ratio=True)
ALONE = Metric("without clients, %", "alone_cpu_share", 100, 2)
VISIT = Metric("CPU per visit, µs", "cpu_per_visit_us", digits=0, ratio=True)
REPLAY = (
    Metric("all have everything, ms", "wall_s", 1e3, digits=0, ratio=True),
    Metric("median client, ms", "complete.p50_us", 1e-3, digits=0),
    replace(CPU, title="CPU per replayed event, µs"),
    PEAK,
)
COMPRESSED = (WIRE, CPU, RSS, *DELIVERY, BUSY, LOAD, WAITED)
# What is drawn over the number of clients.
CURVES = (CPU, RSS, LAST[0])

WORKLOADS = {
    "fanout": Workload(
        "fanout", _fanout, (CPU, RSS, CONNECT, *DELIVERY, BUSY, LOAD, WAITED, PUBLISH), paced=True
    ),
    "growth": Workload(
        "fanout",
        _growth,
        (),
        "100,500,2000,8000,19000",
        across=(*CURVES, LATENCY[1], CONNECT, BUSY, LOAD, WAITED),
        paced=True,
    ),
    "burst": Workload(
        "fanout", _burst, (CPU, replace(SPEED, ratio=True), *DELIVERY, BUSY, LOAD, WAITED, PUBLISH), "500"
    ),
    "stalled": Workload(
        "fanout",
        _stalled,
        (CLIENTS, STAYED, CPU, RSS, replace(PEAK, ratio=True), *DELIVERY, BUSY, LOAD, WAITED),
        "10000",
        twin=Twin("none stalled", _none_stalled),
        paced=True,
    ),
    "rate": Workload(
        "fanout",
        _rate,
        (CPU, *DELIVERY, BUSY, LOAD, WAITED),
        "2000,8000",
        twin=Twin("without a rate", _no_rate),
        paced=True,
    ),
    "compress": Workload("fanout", _compress, COMPRESSED, twin=Twin("uncompressed", _plain), paced=True),
    "compress-table": Workload(
        "fanout", _compress_table, COMPRESSED, twin=Twin("uncompressed", _plain), paced=True
    ),
    "redis": Workload("fanout", _fanout, (CPU, RSS, *DELIVERY, BUSY, LOAD, WAITED), "500", paced=True),
    "redis-burst": Workload(
        "fanout", _burst, (replace(SPEED, ratio=True), CPU, REDIS, *DELIVERY, BUSY, LOAD, WAITED), "500"
    ),
    "workers": Workload(
        "fanout", _workers, (PUBLISHED, *LATENCY, BUSY, LOAD, WAITED), "4", paced=True, together=True
    ),
    "workers-burst": Workload(
        "fanout",
        _workers_burst,
        (PUBLISHED, replace(SPEED, ratio=True), *LATENCY, BUSY, LOAD, WAITED),
        "4",
        together=True,
    ),
    "workers-replay": Workload("replay", _missed, (*REPLAY, BUSY, LOAD, WAITED), "100", together=True),
    # The probe's own requests are in the CPU time, so cost per event is not shown with it.
    "probe": Workload("fanout", _probe, (*PROBE, *DELIVERY, BUSY, LOAD, WAITED), "8000", paced=True),
    "tokens": Workload("tokens", _tokens, (CPU, SPEED, *LATENCY, BUSY, LOAD, WAITED), "50"),
    "runs": Workload("tokens", _runs, (CPU, SPEED, *FIRST, *LATENCY, BUSY, LOAD, WAITED), "50"),
    "runs-redis": Workload("tokens", _runs, (CPU, SPEED, *FIRST, *LATENCY, BUSY, LOAD, WAITED), "50"),
    "replay": Workload("replay", _replay, (*REPLAY, BUSY, LOAD, WAITED), "1000"),
    "publish": Workload("fanout", _publish, (), "10,1000,19000", across=(PUBLISH, LOAD, WAITED)),
    "idle": Workload("idle", _timed, (RSS, CONNECT, HEARTBEAT, replace(BUSY, digits=2), ALONE)),
    "churn": Workload("churn", _timed, (VISIT, BUSY, LOAD, WAITED), "50"),
    "generators": Workload("idle", _waiting, (RSS, CONNECT), "2000"),
    "generators-churn": Workload("churn", _waiting, (VISIT, BUSY, LOAD, WAITED), "50"),
}


def columns(options: dict[str, Any]) -> tuple[Metric, ...]:
    """The columns of the table for these options of the command line."""
    workload = WORKLOADS[options["workload"]]
    if options.get("probe") and options["workload"] != "probe":
        return PROBE + tuple(metric for metric in workload.metrics if metric is not CPU)
    return workload.metrics


def due(options: dict[str, Any], clients: int) -> float | None:
    """For how many seconds events are published, with these options; None where none has a time."""
    workload = WORKLOADS[options["workload"]]
    if not workload.paced:
        return None
    chosen: Any = workload.options(Namespace(**options | {"clients": clients}))
    return float(chosen["n"] / chosen["rate"]) if chosen["rate"] else None
