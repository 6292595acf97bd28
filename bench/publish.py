"""What `publish()` costs its caller as subscribers grow: CPU time of the calling thread, with real clients.

    python -m bench.publish --subscribers 10,5000 --rounds 3

The server publishes from a request handler while the load generator holds the clients and checks that every
event arrives. Calls are timed in groups, back to back, so that what is measured is the call and not the clock
or the caches that delivering to thousands of sockets has emptied; `--group 1` times each call alone.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from bench import load, report, servers, verify
from bench.run import cores


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.publish", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--servers", default="sse-hub", help="comma-separated [%(default)s]")
    add("--subscribers", default="10,5000", help="comma-separated [%(default)s]")
    add("--rounds", type=int, default=3, help="[%(default)s]")
    add("--events", type=int, default=200, help="calls in a round [%(default)s]")
    add("--group", type=int, default=20, help="calls timed together [%(default)s]")
    add("--pause", type=float, default=1.0, help="seconds from one group to the next [%(default)s]")
    add("--bytes", type=int, default=128, help="[%(default)s]")
    add("--path", default="/publish", help="the publisher; sse-hub also has /publish-bytes [%(default)s]")
    add("--timeout", type=float, default=120.0, help="seconds a phase may take [%(default)s]")
    add("--no-pin", action="store_true", help="do not pin server and load to cores 0 and 1")
    add("--out", type=Path, default=servers.ROOT / "bench" / "results" / "raw" / "publish.json")
    return parser.parse_args()


def measure(server: servers.Server, subscribers: int, args: argparse.Namespace) -> dict[str, Any]:
    """One round: a fresh server, the clients, the calls."""
    server_cores, load_cores = cores(args)
    with servers.running(server, server_cores, load_cores) as (pid, port):
        verify.verify("fanout", port)
        return load.run(
            "fanout", pid, port, load_cores, clients=subscribers, bytes=args.bytes, publish=args.path,
            n=args.events, batch=args.group, rate=args.group / args.pause, warmup=args.group,
            timeout=args.timeout,
        )  # fmt: skip


def row(name: str, costs: dict[int, list[float]]) -> str:
    """A line of the table: the median and the spread for each number of subscribers, and the growth."""
    medians = {subscribers: statistics.median(values) for subscribers, values in costs.items()}
    cells = [f"{medians[s]:,.2f} ({min(v):,.2f} to {max(v):,.2f})" for s, v in costs.items()]
    growth = medians[max(medians)] / medians[min(medians)]
    return f"| {name} | " + " | ".join(cells) + f" | {growth:.2f}x |"


def main() -> None:
    """Run, print, write."""
    args = parse()
    load.build()
    numbers = [int(number) for number in args.subscribers.split(",")]
    picked = [server for name in args.servers.split(",") if (server := servers.find(name, "fanout"))]
    costs: dict[str, dict[int, list[float]]] = {s.name: {number: [] for number in numbers} for s in picked}
    runs: list[dict[str, Any]] = []
    for _ in range(args.rounds):
        for server in picked:
            for number in numbers:
                result = measure(server, number, args)
                runs.append({"server": server.name, "subscribers": number, "report": result})
                cost = statistics.median(result["publisher"]["publish_cpu_ns"]) / 1e3
                why = "" if result["valid"] else f" INVALID: {result['invalid_because']}"
                print(f"{server.name} {number}: {cost:.2f} µs{why}", file=sys.stderr, flush=True)
                if result["valid"]:
                    costs[server.name][number].append(cost)
    print(f"publish(), µs of the caller's CPU, {args.bytes} bytes, groups of {args.group}\n")
    print("| server | " + " | ".join(f"{number} subscribers" for number in numbers) + " | growth |")
    print("|---" * (len(numbers) + 2) + "|")
    for name, of_server in costs.items():
        print(row(name, of_server) if all(of_server.values()) else f"| {name} | no valid run |")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": report.machine(), "versions": report.versions(picked), "runs": runs}
    args.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
