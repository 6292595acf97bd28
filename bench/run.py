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
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import load, report, servers, toolchains, verify
from bench.workloads import CPU, PROBE, PUBLISH, WORKLOADS, Metric


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("workload", choices=WORKLOADS)
    add("--servers", help=f"comma-separated, of: {', '.join(servers.names())} [all that can]")
    add("--baseline", default="sse-starlette", help="what ratios refer to [%(default)s]")
    add("--clients", help="comma-separated [2000; probe 8000, stalled 10000, burst 500, tokens and churn 50]")
    add("--rounds", type=int, default=3, help="[%(default)s]")
    add(
        "--seconds",
        type=float,
        default=10.0,
        help="how long fanout publishes, idle and churn run [%(default)s]",
    )
    add("--rate", type=float, help="events per second [4; probe 10; stalled 1]")
    add("--events", type=int, help="events (burst: 200, tokens: 2000, others: from --seconds)")
    add("--batch", type=int, default=1, help="events published at a time (fanout) [%(default)s]")
    add("--bytes", type=int, default=128, help="size of an event's data [%(default)s]")
    add(
        "--pause",
        type=float,
        help="seconds the token generator sleeps before each event; none: it never awaits",
    )
    add("--repeat", type=int, default=2, help="token streams per client [%(default)s]")
    add("--stalled", type=int, help="of the clients, how many stop reading [0; stalled: a tenth]")
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


def measure(server: servers.Server, clients: int, args: argparse.Namespace) -> dict[str, Any]:
    """One run on a fresh process: verified, then timed."""
    workload = WORKLOADS[args.workload]
    server_cores, load_cores = cores(args)
    with servers.running(server, server_cores, load_cores) as (pid, port):
        verify.verify(args.workload, port)
        options = {
            "clients": clients,
            "bytes": args.bytes,
            "timeout": args.timeout,
            "gather": args.gather,
        }
        given = argparse.Namespace(**vars(args) | {"clients": clients})
        result = load.run(workload.mode, pid, port, load_cores, **(options | workload.options(given)))
    costs = (result.get("publisher") or {}).pop("publish_cpu_ns", None)
    if costs:
        result["publish_us"] = statistics.median(costs) / 1e3
    return result


def rounds(picked: list[servers.Server], clients: int, args: argparse.Namespace) -> report.Runs:
    """All runs. Each round begins with another server, so that drift hits all alike."""
    runs: report.Runs = {server.name: [] for server in picked}
    for number in range(args.rounds):
        turn = number % len(picked)
        for server in picked[turn:] + picked[:turn]:
            try:
                result = measure(server, clients, args)
            except Exception as error:
                result = {"valid": False, "invalid_because": [f"{type(error).__name__}: {error}"]}
            runs[server.name].append(result)
            why = "" if result.get("valid") else f" INVALID: {'; '.join(result['invalid_because'])}"
            cpu = result.get("cpu_per_event_us")
            note = f" {cpu:.2f} µs/event" if cpu else ""
            where = f"{args.workload} {clients} round {number + 1}/{args.rounds} {server.name}"
            print(f"{where}:{note}{why}", file=sys.stderr, flush=True)
    return runs


def columns(args: argparse.Namespace) -> tuple[Metric, ...]:
    """The table's columns."""
    metrics = WORKLOADS[args.workload].metrics
    if args.probe or args.workload == "probe":
        # The probe's own requests are in the CPU time, so cost per event is not shown with it.
        metrics = PROBE + tuple(metric for metric in metrics if metric is not CPU)
    if args.workload in ("fanout", "burst"):
        metrics = (*metrics, PUBLISH)
    return metrics


def execute(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Everything the command line asks for: the text to print, the document to write."""
    sizes = [int(size) for size in (args.clients or str(WORKLOADS[args.workload].clients)).split(",")]
    picked, skipped = prepared(chosen(args))
    if not picked:
        sys.exit("no server can be had: " + "; ".join(skipped))
    load.build()
    where, began, metrics = report.machine(), datetime.now(UTC), columns(args)
    server_cores, load_cores = cores(args)
    pinning = "not pinned" if server_cores is None else f"server on core {server_cores}, load on {load_cores}"
    tables, results = [], []
    for clients in sizes:
        runs = rounds(picked, clients, args)
        summarised = report.summary(runs, metrics, args.baseline)
        title = f"{args.workload}: {clients} clients, {args.bytes} bytes, {args.rounds} rounds, {pinning}"
        tables.append(f"{title}\n\n{report.markdown(summarised, metrics, runs)}")
        results.append({"clients": clients, "summary": summarised, "runs": runs})
    found = report.versions(picked)
    notes = [f"skipped: {reason}" for reason in skipped]
    notes.append(report.provenance(where, found))
    document = {
        "workload": args.workload,
        "began": began.isoformat(timespec="seconds"),
        "options": {name: value for name, value in vars(args).items() if name != "out"},
        "pinning": pinning,
        "machine": where,
        "versions": found,
        "skipped": skipped,
        "results": results,
    }
    return "\n\n".join(tables + notes), document


def failed(document: dict[str, Any]) -> list[str]:
    """The servers without a valid run, with the number of clients."""
    return [
        f"{name} at {result['clients']} clients"
        for result in document["results"]
        for name, of_server in result["runs"].items()
        if not any(run.get("valid") for run in of_server)
    ]


def main() -> None:
    """Run, print, write."""
    args = parse()
    text, document = execute(args)
    print(text)
    out = args.out or servers.ROOT / "bench" / "results" / "raw" / f"{args.workload}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\nwritten: {out}", file=sys.stderr)
    if without := failed(document):
        sys.exit(f"no valid run: {', '.join(without)}")


if __name__ == "__main__":
    main()
