"""Which servers are compared, how each is started, and that it is stopped again."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Server:
    """One server under test.

    `command` gives the command line for a port; `workloads` are those it can serve; `packages` are the
    distributions whose versions the report prints.
    """

    name: str
    command: Callable[[int], list[str]]
    workloads: frozenset[str]
    packages: tuple[str, ...]


def uvicorn(app: str, *options: str) -> Callable[[int], list[str]]:
    """One uvicorn worker with uvloop and httptools, without an access log."""

    def command(port: int) -> list[str]:
        fixed = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
        # Options come last: a later --http replaces the fixed one.
        return [
            sys.executable,
            "-m",
            "uvicorn",
            app,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            *fixed,
            *options,
        ]

    return command


FANOUT = frozenset({"fanout", "burst", "idle", "churn"})
TOKENS = frozenset({"tokens"})
WEB = ("uvicorn", "uvloop", "httptools", "starlette")

SERVERS = [
    Server(
        "sse-starlette",
        uvicorn("bench.peers.sse_starlette_queue:app"),
        FANOUT,
        ("sse-starlette", "fastapi", *WEB),
    ),
    Server(
        "sse-starlette",
        uvicorn("bench.peers.sse_starlette_tokens:app"),
        TOKENS,
        ("sse-starlette", "fastapi", *WEB),
    ),
    Server("sse-hub", uvicorn("bench.peers.sse_hub_fanout:app"), FANOUT, ("sse-hub", "fastapi", *WEB)),
    Server(
        "sse-hub handed off",
        uvicorn("bench.peers.sse_hub_fanout:app", "--http", "sse_hub.uvicorn:Protocol"),
        FANOUT,
        ("sse-hub", "fastapi", *WEB),
    ),
    Server("sse-hub", uvicorn("bench.peers.sse_hub_tokens:app"), TOKENS, ("sse-hub", "fastapi", *WEB)),
    Server("fastapi.sse", uvicorn("bench.peers.fastapi_sse:app"), FANOUT | TOKENS, ("fastapi", *WEB)),
    Server("starlette", uvicorn("bench.peers.starlette_stream:app"), FANOUT | TOKENS, WEB),
    Server("raw-asgi", uvicorn("bench.peers.raw_asgi:app"), FANOUT | TOKENS, WEB[:3]),
]


def find(name: str, workload: str) -> Server | None:
    """The server of that name for that workload."""
    return next((server for server in SERVERS if server.name == name and workload in server.workloads), None)


def names() -> list[str]:
    """All servers' names, each once."""
    return list(dict.fromkeys(server.name for server in SERVERS))


def pinned(command: list[str], core: int | None) -> list[str]:
    """The command on one core; unchanged where None."""
    return command if core is None else ["taskset", "-c", str(core), *command]


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_listening(process: "subprocess.Popen[bytes]", port: int, seconds: float = 20.0) -> None:
    """Return once the port accepts; RuntimeError if the process ends or time runs out."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode} before it listened")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the server did not listen within {seconds} s")


@contextmanager
def running(server: Server, core: int | None) -> Iterator[tuple[int, int]]:
    """Start the server, give its process id and port, and end it and its children."""
    port = free_port()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "python")])}
    command = pinned(server.command(port), core)
    # taskset replaces itself by the server, so the process id is the server's. A session of its own lets the
    # whole family be ended without naming anything else.
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        await_listening(process, port)
        yield process.pid, port
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
