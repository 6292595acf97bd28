"""What other requests cost in a process that imports sse_hub, against one that does not: by turns.

    python -m bench.others --rounds 5

Connections that are kept send a request as soon as the answer before is there, as wrk does. An event stream
is open in the process with sse_hub, and handed off.
"""

import argparse
import os
import selectors
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

from bench import report, servers
from bench.servers import Server

CONNECTIONS = 32
SECONDS = 3.0
WARMUP = 0.5
WITH, WITHOUT = "with sse_hub", "without"
PACKAGES = ("sse-hub", "fastapi", "uvicorn", "uvloop", "httptools", "starlette")
REQUEST = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"


def peer(name: str, *variables: str) -> Server:
    """The app, with these variables in its environment."""
    start = servers.uvicorn("bench.peers.plain_app:app")
    return Server(name, lambda port, directory: ["env", *variables, *start(port, directory)], frozenset())


PEERS = (peer(WITHOUT), peer(WITH, "BENCH_WITH_HUB=1"))


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    with open(f"/proc/{pid}/schedstat") as file:
        main = int(file.read().split()[0])
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat") as file:
            total += int(file.read().split()[0])
    return max(total, main) / 1e9


def load(port: int, seconds: float) -> int:
    """Send requests; how many were answered."""
    selector = selectors.DefaultSelector()
    for _ in range(CONNECTIONS):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(REQUEST)
        selector.register(connection, selectors.EVENT_READ, bytearray())
    answered, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        for key, _ in selector.select(0.1):
            connection = key.fileobj  # type: ignore[assignment]
            answer: bytearray = key.data
            answer += connection.recv(4096)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"the server answered {answer!r}")
            if not answer.endswith(b'x"}'):
                continue  # the head and the body are two writes
            answer.clear()
            answered += 1
            connection.sendall(REQUEST)
    for key in list(selector.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]
    return answered


def once(server: Server, cores: tuple[str | None, str | None]) -> dict[str, float]:
    """A fresh process, and a run against it."""
    with servers.running(server, cores[0]) as (pid, port, _):
        stream = None
        if server.name == WITH:
            stream = socket.create_connection(("127.0.0.1", port))
            stream.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            stream.recv(4096)
        command = [sys.executable, "-m", "bench.others", "--load", str(port)]
        load_with(command, cores[1], WARMUP)
        before, began = cpu_of(pid), time.monotonic()
        answered = load_with(command, cores[1], SECONDS)
        took, used = time.monotonic() - began, cpu_of(pid) - before
        if stream is not None:
            stream.close()
    return {"cpu_us": used * 1e6 / answered, "per_s": answered / took}


def load_with(command: list[str], cores: str | None, seconds: float) -> int:
    """The load as a process of its own, on its own core."""
    done = subprocess.run(
        servers.pinned([*command, "--seconds", str(seconds)], cores),
        cwd=servers.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def measure(rounds: int) -> dict[str, Any]:
    """Both, in rounds that begin with another one each."""
    cores = ("0", "1") if {0, 1} <= os.sched_getaffinity(0) else (None, None)
    runs: dict[str, list[dict[str, float]]] = {server.name: [] for server in PEERS}
    for number in range(rounds):
        for server in PEERS if number % 2 else PEERS[::-1]:
            runs[server.name].append(once(server, cores))
    return report.without_servers("others", rounds, PACKAGES, runs)


def table(document: dict[str, Any]) -> str:
    """The table: medians with their spread, and the ratio of each round's pair."""
    lines = ["| process | CPU per request, µs | requests per s |", "|---|---|---|"]
    results = document["results"]
    for name, runs in results.items():
        cells = []
        for key, digits in (("cpu_us", 1), ("per_s", 0)):
            values = [run[key] for run in runs]
            spread = f" ({min(values):,.{digits}f} to {max(values):,.{digits}f})" if len(values) > 1 else ""
            cells.append(f"{statistics.median(values):,.{digits}f}{spread}")
        if name == WITH:
            pairs = zip(runs, results[WITHOUT], strict=True)
            cells[0] += f" **{statistics.median(a['cpu_us'] / b['cpu_us'] for a, b in pairs):.3f}x**"
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run and print; with --load, be the load of one run."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.others", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5, help="[%(default)s]")
    parser.add_argument("--load", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        print(load(args.load, args.seconds))
        return
    document = measure(args.rounds)
    print(table(document))
    print("\n" + report.provenance(document["machine"], document["versions"]))


if __name__ == "__main__":
    main()
