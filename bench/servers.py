"""Which servers are compared, how each is started, and that it is stopped again."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench import toolchains

ROOT = toolchains.ROOT

CONTROL = "control.sock"


def nothing() -> None:
    """What a server needs that is installed with the development dependencies."""


@dataclass(frozen=True)
class Server:
    """One server under test.

    `command` gives the command line for a port and a directory of its own; `workloads` are those it can
    serve; `packages` are the distributions whose versions the report prints, `versions` gives those of
    anything else.
    `prepare` builds or installs what it needs, and raises `toolchains.Unavailable` where it cannot be had.
    Of its `workers`, if there are several, each leaves a file `started.PID` in that directory.
    `companion` is the command line of a process beside it that is not measured; it listens on CONTROL in that
    directory.
    """

    name: str
    command: Callable[[int, Path], list[str]]
    workloads: frozenset[str]
    packages: tuple[str, ...] = ()
    versions: Callable[[], dict[str, str]] = dict
    prepare: Callable[[], None] = nothing
    companion: Callable[[int, Path], list[str]] | None = None
    workers: int = 1


def uvicorn(app: str, *options: str, handoff: bool = True) -> Callable[[int, Path], list[str]]:
    """One uvicorn worker with uvloop and httptools, without an access log."""

    def command(port: int, _directory: Path) -> list[str]:
        fixed = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
        # Options come last: a later --http replaces the fixed one.
        return [
            *([] if handoff else ["env", "SSE_HUB_HANDOFF=0"]),
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


def with_variable(variable: str, start: Callable[[int, Path], list[str]]) -> Callable[[int, Path], list[str]]:
    """The same server with a variable in its environment."""
    return lambda port, directory: ["env", variable, *start(port, directory)]


def granian(app: str) -> Callable[[int, Path], list[str]]:
    """One granian worker with uvloop; its supervisor is measured with it."""
    fixed = ["--interface", "asgi", "--loop", "uvloop", "--workers", "1", "--no-access-log"]
    fixed += ["--log-level", "error", "--host", "127.0.0.1"]
    # Its default serves 1,024 requests at a time, and a stream is one; the rest would wait.
    fixed += ["--backlog", "4096", "--backpressure", "65536"]
    return lambda port, _directory: [sys.executable, "-m", "granian", *fixed, "--port", str(port), app]


def hypercorn(app: str) -> Callable[[int, Path], list[str]]:
    """One hypercorn worker with uvloop; its supervisor is measured with it."""
    fixed = ["--worker-class", "uvloop", "--workers", "1", "--log-level", "error"]
    # Its default of 100 waiting connections is less than come at once.
    fixed += ["--backlog", "4096"]
    return lambda port, _directory: [
        sys.executable, "-m", "hypercorn", *fixed, "--bind", f"127.0.0.1:{port}", app
    ]  # fmt: skip


REDIS_PORT = "redis.port"  # a file in a server's directory


def redis(_port: int, directory: Path) -> list[str]:
    """redis-server on a free port, which the directory then names. It writes nothing to disk."""
    port = str(free_port())
    (directory / REDIS_PORT).write_text(port)
    fixed = ["--bind", "127.0.0.1", "--unixsocket", str(directory / CONTROL), "--dir", str(directory)]
    fixed += ["--save", "", "--appendonly", "no", "--logfile", str(directory / "redis.log")]
    return ["redis-server", "--port", port, *fixed]


def over_redis(
    name: str,
    app: str,
    packages: tuple[str, ...],
    prepare: Callable[[], None] = toolchains.redis,
    handoff: bool = True,
    workloads: frozenset[str] | None = None,
) -> "Server":
    """A Python server with a Redis beside it."""
    start = uvicorn(app, handoff=handoff)

    def command(port: int, directory: Path) -> list[str]:
        url = f"redis://127.0.0.1:{(directory / REDIS_PORT).read_text()}"
        return ["env", f"BENCH_REDIS={url}", *start(port, directory)]

    packages = (*packages, "redis", "fastapi", *WEB)
    serves = REDIS if workloads is None else workloads
    return Server(name, command, serves, packages, toolchains.redis_version, prepare, companion=redis)


def shared(kind: str, workloads: frozenset[str], *, workers: int = 1, handoff: bool = True) -> "Server":
    """sse-hub over a broker: `Redis`, beside it, or `files` in its directory."""
    # The supervisor ends a worker that does not answer it for five seconds, by default.
    many = ("--workers", str(workers), "--timeout-worker-healthcheck", "60") if workers > 1 else ()
    start = uvicorn("bench.peers.sse_hub_shared:app", *many, handoff=handoff)

    def command(port: int, directory: Path) -> list[str]:
        is_redis = kind == "Redis"
        place = (
            f"redis://127.0.0.1:{(directory / REDIS_PORT).read_text()}" if is_redis else f"file:{directory}"
        )
        number = f"BENCH_NUMBER={directory / 'number'}"
        return ["env", f"BENCH_BROKER={place}", number, *start(port, directory)]

    name = f"sse-hub over {kind}" + (f" on {workers} workers" if many else " handed off" if handoff else "")
    packages = ("sse-hub", "fastapi", *WEB)
    if kind == "Redis":
        versions, prepare = toolchains.redis_version, toolchains.redis
        return Server(name, command, workloads, packages, versions, prepare, companion=redis, workers=workers)
    return Server(name, command, workloads, packages, workers=workers)


def program(*words: str) -> Callable[[int, Path], list[str]]:
    """A program that takes its port as the last argument."""
    return lambda port, _directory: [*words, str(port)]


FANOUT = frozenset({"fanout", "growth", "burst", "publish", "idle", "churn", "stalled", "probe"})
# Values of keys, to clients with a rate of writes.
RATE = frozenset({"rate"})
# Clients that accept gzip.
COMPRESS = frozenset({"compress", "compress-table"})
# The floor waits for whoever is not ready, and has no endpoint but the streams'.
FLOOR = frozenset({"fanout", "growth", "burst", "idle"})
TOKENS = frozenset({"tokens"})
# Streams of generators that wait.
WAITING = frozenset({"generators", "generators-churn"})
RUNS = frozenset({"runs"})
RUNS_REDIS = frozenset({"runs-redis"})
REDIS = frozenset({"redis", "redis-burst"})
# Of all processes of a host together.
WORKERS = frozenset({"workers", "workers-burst", "workers-replay"})
# The hub's own, and nchan's; the others' users write a history of their own.
REPLAY = frozenset({"replay"})
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
        TOKENS | WAITING,
        ("sse-starlette", "fastapi", *WEB),
    ),
    Server(
        "sse-starlette",
        uvicorn("bench.peers.sse_starlette_replay:app"),
        REPLAY,
        ("sse-starlette", "fastapi", *WEB),
    ),
    Server(
        "sse-hub",
        uvicorn("bench.peers.sse_hub_fanout:app", handoff=False),
        FANOUT | RATE | COMPRESS | REPLAY | REDIS,
        ("sse-hub", "fastapi", *WEB),
    ),
    Server(
        "sse-hub handed off",
        uvicorn("bench.peers.sse_hub_fanout:app"),
        FANOUT | RATE | COMPRESS | REPLAY | REDIS,
        ("sse-hub", "fastapi", *WEB),
    ),
    over_redis("sse-hub over Redis", "bench.peers.sse_hub_redis:app", ("sse-hub",), handoff=False),
    over_redis("sse-hub over Redis handed off", "bench.peers.sse_hub_redis:app", ("sse-hub",)),
    shared("files", REDIS, handoff=False),
    shared("files", REDIS),
    shared("files", WORKERS, workers=4),
    shared("Redis", WORKERS, workers=4),
    over_redis(
        "sse-starlette + redis-py per client",
        "bench.peers.sse_starlette_redis:app",
        ("sse-starlette", "hiredis"),
        prepare=toolchains.hiredis,
    ),
    over_redis(
        "sse-starlette + redis-py per process",
        "bench.peers.sse_starlette_redis_shared:app",
        ("sse-starlette", "hiredis"),
        prepare=toolchains.hiredis,
    ),
    Server(
        "sse-hub on granian",
        granian("bench.peers.sse_hub_fanout:app"),
        FANOUT,
        ("sse-hub", "fastapi", "granian"),
    ),
    Server(
        "sse-hub on hypercorn",
        hypercorn("bench.peers.sse_hub_fanout:app"),
        FANOUT,
        ("sse-hub", "fastapi", "hypercorn"),
    ),
    Server(
        "sse-hub", uvicorn("bench.peers.sse_hub_tokens:app"), TOKENS | WAITING, ("sse-hub", "fastapi", *WEB)
    ),
    Server(
        "sse-hub handed off",
        with_variable("BENCH_GENERATOR_HANDOFF=1", uvicorn("bench.peers.sse_hub_tokens:app")),
        TOKENS | WAITING,
        ("sse-hub", "fastapi", *WEB),
    ),
    Server("sse-hub run", uvicorn("bench.peers.sse_hub_runs:app"), RUNS, ("sse-hub", "fastapi", *WEB)),
    Server(
        "sse-hub run portable",
        uvicorn("bench.peers.sse_hub_runs:app", handoff=False),
        RUNS,
        ("sse-hub", "fastapi", *WEB),
    ),
    Server(
        "sse-hub generator",
        uvicorn("bench.peers.sse_hub_tokens:app"),
        RUNS,
        ("sse-hub", "fastapi", *WEB),
    ),
    Server(
        "sse-starlette",
        uvicorn("bench.peers.sse_starlette_runs:app"),
        RUNS,
        ("sse-starlette", "fastapi", *WEB),
    ),
    over_redis(
        "sse-hub run over Redis", "bench.peers.sse_hub_runs_redis:app", ("sse-hub",), workloads=RUNS_REDIS
    ),
    over_redis(
        "resumable-stream",
        "bench.peers.resumable_stream_redis:app",
        ("resumable-stream", "hiredis"),
        prepare=toolchains.resumable_stream,
        workloads=RUNS_REDIS,
    ),
    Server("fastapi.sse", uvicorn("bench.peers.fastapi_sse:app"), FANOUT | TOKENS, ("fastapi", *WEB)),
    Server("fastapi.sse", uvicorn("bench.peers.fastapi_sse_replay:app"), REPLAY, ("fastapi", *WEB)),
    Server("starlette", uvicorn("bench.peers.starlette_stream:app"), FANOUT | TOKENS, WEB),
    Server("GZipMiddleware", uvicorn("bench.peers.gzip_per_client:app"), COMPRESS, WEB),
    Server("StreamingResponse", uvicorn("bench.peers.fastapi_stream:app"), WAITING, ("fastapi", *WEB)),
    Server("raw-asgi", uvicorn("bench.peers.raw_asgi:app"), FANOUT | TOKENS, WEB[:3]),
    Server(
        "go",
        program(str(toolchains.BUILD / "hub")),
        FANOUT,
        versions=toolchains.go_version,
        prepare=toolchains.go,
    ),
    Server(
        "axum",
        program(toolchains.binary("axum")),
        FANOUT,
        versions=lambda: toolchains.crate_versions("axum", "axum", "tokio"),
        prepare=lambda: toolchains.crate("axum"),
    ),
    Server(
        "node",
        program("node", str(toolchains.PEERS / "node_manager.mjs")),
        FANOUT,
        versions=toolchains.node_version,
        prepare=toolchains.node,
    ),
    Server(
        "nchan",
        toolchains.nchan_configuration,
        FANOUT | REPLAY,
        versions=toolchains.nchan_version,
        prepare=toolchains.nchan,
        companion=lambda port, directory: [
            sys.executable, "-m", "bench.peers.nchan_control", str(directory / CONTROL), str(port),
        ],
    ),
    Server(
        "bare loop",
        program(sys.executable, "-m", "bench.peers.bare_loop"),
        TOKENS,
        ("uvloop",),
    ),
    Server(
        "bare",
        program(toolchains.binary("bare")),
        FLOOR,
        versions=lambda: toolchains.crate_versions("bare"),
        prepare=lambda: toolchains.crate("bare"),
    ),
]  # fmt: skip


def find(name: str, workload: str) -> Server | None:
    """The server of that name for that workload."""
    return next((server for server in SERVERS if server.name == name and workload in server.workloads), None)


def names() -> list[str]:
    """All servers' names, each once."""
    return list(dict.fromkeys(server.name for server in SERVERS))


def pinned(command: list[str], cores: str | None) -> list[str]:
    """The command on these cores, as taskset takes them; unchanged where None."""
    return command if cores is None else ["taskset", "-c", cores, *command]


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_listening(process: "subprocess.Popen[bytes]", at: int | Path, seconds: float = 60.0) -> None:
    """Return once the port or Unix socket accepts; RuntimeError if the process ends or time runs out."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode} before it listened")
        try:
            if isinstance(at, int):
                socket.create_connection(("127.0.0.1", at), 1).close()
            else:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(at))
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the server did not listen within {seconds} s")


@contextmanager
def started(command: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """A process in a session of its own, so that it and its children end without naming anything else."""
    # What a server frees after compiling modules is used by its first clients, which then seem to cost less.
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "python")]),
        "PYTHONPYCACHEPREFIX": str(ROOT / "target" / "pycache"),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def running(
    server: Server, cores: str | None, companion_cores: str | None = None
) -> Iterator[tuple[int, int, int | None]]:
    """Start the server, give its process id and port, and end it and its children.

    Its companion, where it has one, is not of its family: the third value is its process id.
    """
    port = free_port()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        beside = None
        if server.companion is not None:
            beside = stack.enter_context(started(pinned(server.companion(port, directory), companion_cores)))
            await_listening(beside, directory / CONTROL)
        # taskset replaces itself by the server, so the process id is the server's.
        process = stack.enter_context(started(pinned(server.command(port, directory), cores)))
        await_listening(process, port)
        while server.workers > 1 and len([*directory.glob("started.*")]) < server.workers:
            time.sleep(0.05)
        time.sleep(1.0 if server.workers > 1 else 0.0)  # the last one begins to accept
        yield process.pid, port, beside.pid if beside else None
