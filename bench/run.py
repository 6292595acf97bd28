"""Run one workload against several servers, in rounds that alternate between them.

    python -m bench.run fanout --clients 2000 --rounds 5 --servers sse-starlette,sse-hub
    python -m bench.run tokens --clients 50 --pause 0

Prints a Markdown table and writes everything measured as JSON.
"""

import argparse
import json
import os
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import load, report, servers, verify
from bench.workloads import CPU, PROBE, PUBLISH, WORKLOADS

SERVER_CORE, LOAD_CORE = 0, 1


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("workload", choices=WORKLOADS)
    add("--servers", help=f"comma-separated, of: {', '.join(servers.names())} [all that can]")
    add("--baseline", default="sse-starlette", help="what ratios refer to [%(default)s]")
    add("--clients", type=int, help="[2000; tokens and churn: 50]")
    add("--rounds", type=int, default=3, help="[%(default)s]")
    add(
        "--seconds",
        type=float,
        default=10.0,
        help="how long fanout publishes, idle and churn run [%(default)s]",
    )
    add("--rate", type=float, help="events per second (fanout) [4]")
    add("--events", type=int, help="events (burst: 100, tokens: 2000, fanout: from --seconds)")
    add("--batch", type=int, default=1, help="events published at a time (fanout) [%(default)s]")
    add("--bytes", type=int, default=128, help="size of an event's data [%(default)s]")
    add(
        "--pause",
        type=float,
        help="seconds the token generator sleeps before each event; none: it never awaits",
    )
    add("--repeat", type=int, default=2, help="token streams per client [%(default)s]")
    add("--stalled", type=int, default=0, help="clients that stop reading (fanout) [%(default)s]")
    add("--probe", action="store_true", help="time an unrelated endpoint meanwhile (fanout)")
    add("--gather", type=int, help="load generator: microseconds between two looks at its sockets")
    add("--timeout", type=float, default=120.0, help="seconds a phase may take [%(default)s]")
    add("--no-pin", action="store_true", help="do not pin server and load to cores 0 and 1")
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


def cores(args: argparse.Namespace) -> tuple[int | None, int | None]:
    """The cores of server and load; None for both where they cannot be separated."""
    allowed = os.sched_getaffinity(0)
    if args.no_pin or not {SERVER_CORE, LOAD_CORE} <= allowed:
        return None, None
    return SERVER_CORE, LOAD_CORE


def measure(server: servers.Server, args: argparse.Namespace) -> dict[str, Any]:
    """One run on a fresh process: verified, then timed."""
    workload = WORKLOADS[args.workload]
    server_core, load_core = cores(args)
    with servers.running(server, server_core) as (pid, port):
        verify.verify(args.workload, port)
        options = {
            "clients": args.clients,
            "bytes": args.bytes,
            "timeout": args.timeout,
            "gather": args.gather,
        }
        result = load.run(workload.mode, pid, port, load_core, **(options | workload.options(args)))
    costs = (result.get("publisher") or {}).get("publish_cpu_ns")
    if costs:
        result["publish_us"] = statistics.median(costs) / 1e3
    return result


def rounds(picked: list[servers.Server], args: argparse.Namespace) -> report.Runs:
    """All runs. Each round begins with another server, so that drift hits all alike."""
    runs: report.Runs = {server.name: [] for server in picked}
    for number in range(args.rounds):
        turn = number % len(picked)
        for server in picked[turn:] + picked[:turn]:
            try:
                result = measure(server, args)
            except Exception as error:
                result = {"valid": False, "invalid_because": [f"{type(error).__name__}: {error}"]}
            runs[server.name].append(result)
            why = "" if result.get("valid") else f" INVALID: {'; '.join(result['invalid_because'])}"
            cpu = result.get("cpu_per_event_us")
            note = f" {cpu:.2f} µs/event" if cpu else ""
            print(f"round {number + 1}/{args.rounds} {server.name}:{note}{why}", file=sys.stderr, flush=True)
    return runs


def main() -> None:
    """Run, print, write."""
    args = parse()
    args.clients = args.clients or (50 if args.workload in ("tokens", "churn") else 2000)
    picked = chosen(args)
    load.build()
    where, began = report.machine(), datetime.now(UTC)
    runs = rounds(picked, args)
    metrics = WORKLOADS[args.workload].metrics
    if args.probe:
        # The probe's own requests are in the CPU time, so cost per event is not shown with it.
        metrics = PROBE + tuple(metric for metric in metrics if metric is not CPU)
    if args.workload in ("fanout", "burst"):
        metrics = (*metrics, PUBLISH)
    summarised = report.summary(runs, metrics, args.baseline)
    found = report.versions(picked)
    pinning = "server on core 0, load on core 1" if cores(args)[0] is not None else "not pinned"
    print(f"{args.workload}: {args.clients} clients, {args.bytes} bytes, {args.rounds} rounds, {pinning}\n")
    print(report.markdown(summarised, metrics, runs))
    print(f"\n{where['cpu']}, {where['cores']} cores, Linux {where['kernel']}, Python {where['python']}; "
          + ", ".join(f"{name} {version}" for name, version in found.items()))  # fmt: skip
    out = args.out or servers.ROOT / "bench" / "results" / "raw" / f"{args.workload}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "workload": args.workload,
        "began": began.isoformat(timespec="seconds"),
        "options": {name: value for name, value in vars(args).items() if name != "out"},
        "pinning": pinning,
        "machine": where,
        "versions": found,
        "summary": summarised,
        "runs": runs,
    }
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\nwritten: {out}", file=sys.stderr)
    if any(not any(run.get("valid") for run in of_server) for of_server in runs.values()):
        sys.exit("a server has no valid run")


if __name__ == "__main__":
    main()
