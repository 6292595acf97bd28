"""What other requests cost in a process that imports sse_hub, against one that does not.

    python -m bench.others --rounds 5

Connections that are kept send a request as soon as the answer before is there, as wrk does. An event stream
is open in the process with sse_hub, and handed off. In a round both processes are fresh, and have their turns
of a quarter of a second. Where valgrind is installed, the first rounds also count the server's instructions,
which other programs on the machine do not change.
"""

import argparse
import os
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench import report, servers
from bench.servers import Server

CONNECTIONS = 32
TURNS = 16  # of each process in a round
SECONDS = 0.25  # of a turn
WARMUP = 1.0
COUNTED = 2  # rounds with instructions
REQUESTS = 500  # whose instructions are counted
WITH, WITHOUT = "with sse_hub", "without"
PACKAGES = ("sse-hub", "fastapi", "uvicorn", "uvloop", "httptools", "starlette")
REQUEST = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"


def peer(name: str, *variables: str) -> Server:
    """The app, with these variables in its environment. Its dicts are laid out alike in all processes."""
    start = servers.uvicorn("bench.peers.plain_app:app")
    same = ("env", "PYTHONHASHSEED=0", *variables)
    return Server(name, lambda port, directory: [*same, *start(port, directory)], frozenset())


def counting(server: Server, path: Path) -> Server:
    """The same under callgrind, which counts when it is told to."""
    tool = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={path}"]

    def command(port: int, directory: Path) -> list[str]:
        words = server.command(port, directory)
        program = next(index for index, word in enumerate(words) if word.startswith("/"))
        return [*words[:program], *tool, *words[program:]]

    return Server(server.name, command, frozenset())


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


class Load:
    """Connections to one server, and the stream of one with sse_hub."""

    def __init__(self, port: int, name: str, connections: int = CONNECTIONS) -> None:
        self._selector = selectors.DefaultSelector()
        for _ in range(connections):
            connection = socket.create_connection(("127.0.0.1", port))
            self._selector.register(connection, selectors.EVENT_READ, bytearray())
        self._stream = socket.create_connection(("127.0.0.1", port))
        if name == WITH:
            self._stream.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            self._stream.recv(4096)

    def run(self, seconds: float = 1e9, requests: int = 10**9) -> int:
        """Send requests until either is over; how many were answered, which is all of them."""
        for key in self._selector.get_map().values():
            key.fileobj.sendall(REQUEST)  # type: ignore[union-attr]
        waiting, sent, end = (
            len(self._selector.get_map()),
            len(self._selector.get_map()),
            time.monotonic() + seconds,
        )
        while waiting:
            for key, _ in self._selector.select(0.1):
                connection: Any = key.fileobj
                answer: bytearray = key.data
                answer += connection.recv(4096)
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise RuntimeError(f"the server answered {answer!r}")
                if not answer.endswith(b'x"}'):
                    continue  # the head and the body are two writes
                answer.clear()
                if sent < requests and time.monotonic() < end:
                    connection.sendall(REQUEST)
                    sent += 1
                else:
                    waiting -= 1
        return sent

    def close(self) -> None:
        """Close all of them."""
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()
        self._stream.close()


@contextmanager
def pinned(core: str | None) -> Iterator[None]:
    """This process, which is the load, on that core."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {int(core)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def turns(order: tuple[Server, ...], core: str | None) -> dict[str, dict[str, float]]:
    """A round: fresh processes, by turns."""
    used: dict[str, list[float]] = {server.name: [] for server in order}
    took = dict.fromkeys(used, 0.0)
    answered = dict.fromkeys(used, 0)
    with ExitStack() as stack:
        at = [(server.name, *stack.enter_context(servers.running(server, core))[:2]) for server in order]
        loads = {name: Load(port, name) for name, _, port in at}
        for name, _, _ in at:
            loads[name].run(WARMUP)
        for _ in range(TURNS):
            for name, pid, _ in at:
                before, began = cpu_of(pid), time.monotonic()
                number = loads[name].run(SECONDS)
                used[name].append((cpu_of(pid) - before) * 1e6 / number)
                took[name] += time.monotonic() - began
                answered[name] += number
        for each in loads.values():
            each.close()
    return {
        name: {"cpu_us": statistics.median(used[name]), "per_s": answered[name] / took[name]} for name in used
    }


def instructions(server: Server, core: str | None) -> float:
    """Of the server's process for one request."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "callgrind"
        with servers.running(counting(server, path), core) as (pid, port, _):
            load = Load(port, server.name, connections=1)
            load.run(requests=100)
            for state in ("on", "off"):
                done = ["callgrind_control", "-i", state, str(pid)]
                subprocess.run(done, check=True, capture_output=True)
                if state == "on":
                    load.run(requests=REQUESTS)
            load.close()
            os.kill(pid, signal.SIGTERM)
            while not path.exists() or b"totals:" not in path.read_bytes():
                time.sleep(0.1)
        line = next(line for line in path.read_text().splitlines() if line.startswith("totals:"))
        return int(line.split()[1]) / REQUESTS


def measure(rounds: int) -> dict[str, Any]:
    """Both, in rounds that begin with another one each."""
    server_core, load_core = ("0", "1") if {0, 1} <= os.sched_getaffinity(0) else (None, None)
    counts = COUNTED if shutil.which("valgrind") else 0
    runs: dict[str, list[dict[str, float]]] = {server.name: [] for server in PEERS}
    with pinned(load_core):
        for number in range(rounds):
            order = PEERS if number % 2 else PEERS[::-1]
            for name, run in turns(order, server_core).items():
                runs[name].append(run)
            for server in order if number < counts else ():
                runs[server.name][-1]["instructions"] = instructions(server, server_core)
    return report.without_servers("others", rounds, PACKAGES, runs)


COLUMNS = (
    ("cpu_us", "CPU per request, µs", 1, 1.0),
    ("instructions", "instructions per request, thousands", 1, 1e-3),
    ("per_s", "requests per s", 0, 1.0),
)


def table(document: dict[str, Any]) -> str:
    """The table: medians with their spread, and the ratio of each round's pair."""
    results = document["results"]
    columns = [column for column in COLUMNS if any(column[0] in run for run in results[WITH])]
    lines = [" | ".join(("| process", *(title for _, title, _, _ in columns))) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, runs in results.items():
        cells = []
        for key, _, digits, unit in columns:
            values = [run[key] * unit for run in runs if key in run]
            spread = f" ({min(values):,.{digits}f} to {max(values):,.{digits}f})" if len(values) > 1 else ""
            cell = f"{statistics.median(values):,.{digits}f}{spread}"
            if name == WITH and key != "per_s":
                pairs = zip(runs, results[WITHOUT], strict=True)
                ratio = statistics.median(a[key] / b[key] for a, b in pairs if key in a)
                cell += f" **{ratio:.3f}x**"
            cells.append(cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.others", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5, help="[%(default)s]")
    args = parser.parse_args()
    document = measure(args.rounds)
    print(table(document))
    print("\n" + report.provenance(document["machine"], document["versions"]))


if __name__ == "__main__":
    main()
