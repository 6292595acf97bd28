"""Run one workload against several servers, in rounds that alternate between them.

    python -m bench.run fanout --clients 2000 --rounds 5 --servers sse-starlette,sse-hub
    python -m bench.run fanout --clients 500,2000,8000    # a table for each size
    python -m bench.run tokens --clients 50 --pause 0

Prints a Markdown table and writes everything measured as JSON. A server that cannot be had on this machine is
named as skipped.
"""

import argparse
import json
import os
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import load, report, servers, toolchains, verify
from bench.workloads import WORKLOADS

# A load average above this before the first run is worth a word: the suite itself leaves about 1.5 behind.
BUSY = 2.0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("workload", choices=WORKLOADS)
    add("--servers", help=f"comma-separated, of: {', '.join(servers.names())} [all that can]")
    add("--baseline", default="sse-starlette", help="what ratios refer to [%(default)s]")
    sizes = "; ".join(f"{name} {workload.clients}" for name, workload in WORKLOADS.items())
    add("--clients", help=f"comma-separated [{sizes}]")
    add("--limit", help="SERVER=CLIENTS, comma-separated: no more clients than that for that server")
    add("--rounds", type=int, default=3, help="[%(default)s]")
    add(
        "--seconds",
        type=float,
        default=10.0,
        help="how long fanout publishes, idle and churn run [%(default)s]",
    )
    add(
        "--rate",
        type=float,
        help="events a second [4, fanout less from 2000 clients on; growth 10, less from 800 on; probe 10; "
        "stalled 1]",
    )
    add(
        "--events", type=int, help="events [bursts 200, tokens 2000, replay 1000, publish 60; from --seconds]"
    )
    add("--batch", type=int, help="events published at a time [1; publish 20]")
    add("--publish-path", default="/publish", help="publish: sse-hub also has /publish-bytes [%(default)s]")
    add("--bytes", type=int, default=128, help="size of an event's data [%(default)s]")
    add(
        "--pause",
        type=float,
        help="seconds the token generator sleeps before each event; none: it never awaits",
    )
    add("--queue", action="store_true", help="tokens: each event comes through an asyncio.Queue")
    add("--watchers", type=int, default=1, help="runs: clients of each source [%(default)s]")
    add("--repeat", type=int, default=2, help="token streams per client [%(default)s]")
    add("--stalled", type=int, help="of the clients, how many stop reading [0; stalled: a tenth]")
    add("--writes", type=float, default=5.0, help="rate: writes a second to each client [%(default)s]")
    add("--plain", action="store_true", help="compress: clients that accept no coding")
    add("--probe", action="store_true", help="time an unrelated endpoint meanwhile (fanout)")
    add("--gather", type=int, help="load generator: microseconds between two looks at its sockets")
    add("--timeout", type=float, default=120.0, help="seconds a phase may take [%(default)s]")
    add("--server-cores", default="0", help="what the server runs on, as taskset takes it [%(default)s]")
    add("--load-cores", default="1", help="likewise the load generator [%(default)s]")
    add("--no-pin", action="store_true", help="do not pin server and load to cores")
    add("--out", type=Path, help="where the JSON goes [bench/results/raw/WORKLOAD.json]")
    return parser.parse_args(arguments)


def chosen(args: argparse.Namespace) -> list[servers.Server]:
    """The servers to compare; SystemExit for a name that is not known or cannot serve the workload."""
    picked = []
    for name in args.servers.split(",") if args.servers else servers.names():
        server = servers.find(name, args.workload)
        if server is not None:
            picked.append(server)
        elif args.servers:
            sys.exit(f"no server {name!r} for {args.workload}; there are: {', '.join(servers.names())}")
    return picked


def prepared(picked: list[servers.Server]) -> tuple[list[servers.Server], list[str]]:
    """Those that can be had here, built; and why the others cannot."""
    ready: list[servers.Server] = []
    skipped: list[str] = []
    for server in picked:
        try:
            server.prepare()
            ready.append(server)
        except toolchains.Unavailable as error:
            skipped.append(f"{server.name}: {error}")
    return ready, skipped


def cores(args: argparse.Namespace) -> tuple[str | None, str | None]:
    """The cores of server and load; None for both where they cannot be separated."""
    if args.no_pin or not {0, 1} <= os.sched_getaffinity(0):
        return None, None
    return getattr(args, "server_cores", "0"), getattr(args, "load_cores", "1")


def rows(server: servers.Server, args: argparse.Namespace) -> dict[str, argparse.Namespace]:
    """What a round measures of a server: the name of each row of the table, and its options."""
    found = {server.name: args}
    if (twin := WORKLOADS[args.workload].twin) is not None:
        found[f"{server.name}, {twin.row}"] = twin.args(args)
    return found


def measure(server: servers.Server, args: argparse.Namespace) -> dict[str, Any]:
    """One run on a fresh process: verified, then timed. `args.clients` is one number here."""
    workload = WORKLOADS[args.workload]
    server_cores, load_cores = cores(args)
    with servers.running(server, server_cores, load_cores) as (pid, port, beside):
        verify.verify(args.workload, port)
        options = {
            "clients": args.clients,
            "bytes": args.bytes,
            "timeout": args.timeout,
            "gather": args.gather,
            "beside": beside if workload.together else None,
        }
        result = load.run(workload.mode, pid, port, load_cores, **(options | workload.options(args)))
    received = result.get("received") or {}
    if received.get("events"):
        result["bytes_per_event"] = received["bytes"] / received["events"]
    costs = (result.get("publisher") or {}).pop("publish_cpu_ns", None)
    if costs:
        result["publish_us"] = statistics.median(costs) / 1e3
    return result


def _note(args: argparse.Namespace, number: int, name: str, result: dict[str, Any]) -> None:
    """A line on standard error for each run."""
    why = "" if result.get("valid") else f" INVALID: {'; '.join(result['invalid_because'])}"
    cpu = result.get("cpu_per_event_us")
    note = f" {cpu:.2f} µs/event" if cpu else ""
    share = result.get("server_wait_share", 0)
    # Its own threads wait for each other too; an idle machine shows what is usual.
    note += f", waited for its core {share:.0%} of the time" if share > 0.05 else ""
    where = f"{args.workload} {args.clients} round {number + 1}/{args.rounds} {name}"
    print(f"{where}:{note}{why}", file=sys.stderr, flush=True)


def limits(args: argparse.Namespace) -> dict[str, int]:
    """How many clients a server is measured with at most, from the command line."""
    pairs = (text.rpartition("=") for text in (args.limit.split(",") if args.limit else []))
    return {name: int(number) for name, _, number in pairs}


def raise_limit() -> None:
    """Servers and load may open as many sockets as this user is allowed to; they inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(65536, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def end_orderly() -> None:
    """SIGTERM ends the servers and the load too, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


def at(args: argparse.Namespace, clients: int) -> argparse.Namespace:
    """The options for one size."""
    return argparse.Namespace(**vars(args) | {"clients": clients})


def begun(args: argparse.Namespace, picked: list[servers.Server], skipped: list[str]) -> report.Document:
    """A document without runs."""
    sizes = [int(size) for size in (args.clients or WORKLOADS[args.workload].clients).split(",")]
    server_cores, load_cores = cores(args)
    pinning = "not pinned" if server_cores is None else f"server on core {server_cores}, load on {load_cores}"
    upto = limits(args)
    named = {server.name: [*rows(server, at(args, sizes[0]))] for server in picked}
    return {
        "workload": args.workload,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": 0.0,
        "complete": False,
        "options": {name: value for name, value in vars(args).items() if name != "out"},
        # Where a server has two rows, the last one is what both refer to.
        "baselines": {row: both[-1] for both in named.values() if len(both) > 1 for row in both},
        "limits": {server.name: upto[server.name] for server in picked if server.name in upto},
        "pinning": pinning,
        "machine": report.machine(),
        "versions": report.versions(picked),
        "skipped": skipped,
        "results": [
            {
                "clients": clients,
                "runs": {
                    row: [] for name in named if clients <= upto.get(name, clients) for row in named[name]
                },
            }
            for clients in sizes
        ],
    }


def resumable(previous: report.Document, fresh: report.Document) -> bool:
    """Whether what was measured belongs to what is to be measured: same options, machine and versions."""

    def key(document: report.Document) -> list[Any]:
        machine = {name: value for name, value in document["machine"].items() if name != "load_average"}
        return [machine, *(document.get(name) for name in ("workload", "options", "versions", "skipped"))]

    return key(previous) == key(fresh)


def turns(
    picked: list[servers.Server], args: argparse.Namespace, number: int
) -> Iterator[tuple[servers.Server, str, argparse.Namespace]]:
    """A round's runs, in their order."""
    for server in picked:
        both = list(rows(server, args).items())
        for row, options in both[::-1] if number % 2 else both:
            yield server, row, options


def execute(
    args: argparse.Namespace,
    previous: report.Document | None = None,
    save: Callable[[report.Document], None] = lambda _document: None,
) -> report.Document:
    """Everything the command line asks for.

    Rounds alternate: each measures all sizes, each size all servers, beginning with another one each time,
    so that drift hits all alike. A server's two rows follow one another, the other one first in every other
    round. `save` is called after every run. What was saved is gone on with where it is given as `previous`
    and belongs to the same options, machine and versions.
    """
    picked, skipped = prepared(chosen(args))
    if not picked:
        sys.exit("no server can be had: " + "; ".join(skipped))
    load.build()
    raise_limit()
    document = begun(args, picked, skipped)
    if document["machine"]["load_average"] > BUSY:
        busy = document["machine"]["load_average"]
        print(f"others are at work here: load average {busy:.1f}", file=sys.stderr, flush=True)
    if previous is not None and resumable(previous, document):
        loads = [each["machine"]["load_average"] for each in (previous, document)]
        document = previous | {"machine": previous["machine"] | {"load_average": max(loads)}}
    elif previous is not None:
        print("options, machine or versions are others now: measured anew", file=sys.stderr, flush=True)
    for number in range(args.rounds):
        turn = number % len(picked)
        for result in document["results"]:
            for server, row, options in turns(
                picked[turn:] + picked[:turn], at(args, result["clients"]), number
            ):
                runs = result["runs"].get(row)
                if runs is None or len(runs) > number:
                    continue
                before = time.monotonic()
                try:
                    run = measure(server, options)
                except Exception as error:
                    run = {"valid": False, "invalid_because": [f"{type(error).__name__}: {error}"]}
                runs.append(run)
                _note(options, number, row, run)
                document["seconds"] = round(document["seconds"] + time.monotonic() - before, 1)
                save(document)
    document["complete"] = True
    save(document)
    return document


def failed(document: report.Document) -> list[str]:
    """The servers without a valid run, with the number of clients; who cannot keep up is none of them."""
    return [
        f"{name} at {result['clients']} clients"
        for result in document["results"]
        for name, of_server in result["runs"].items()
        if not any(run.get("valid") for run in of_server) and name not in report.behind(document, result)
    ]


def main() -> None:
    """Run, print, write."""
    args = parse()
    end_orderly()
    document = execute(args)
    print(report.section(document))
    if args.rounds > 1 and (ratios := report.by_round(document)):
        print(f"\n{ratios}")
    out = args.out or servers.ROOT / "bench" / "results" / "raw" / f"{args.workload}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\nwritten: {out}", file=sys.stderr)
    if without := failed(document):
        sys.exit(f"no valid run: {', '.join(without)}")


if __name__ == "__main__":
    main()
