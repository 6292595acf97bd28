"""Streams leave uvicorn by themselves, with whatever options it was started."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest
from servers import Command, connect, gunicorn, run, uvicorn

APP = "kinds_app:app"
KINDS = ("response", "endpoint", "subscription")
PROXY = ["--proxy-headers", "--forwarded-allow-ips", "*"]
H11 = ["--http", "h11", "--loop", "asyncio"]
FAST = ["--http", "httptools", "--loop", "uvloop"]
# Options, the number of processes, and whether it listens on a Unix socket.
COMMANDS: dict[str, tuple[list[str], int, bool]] = {
    "workers, proxy-headers": ([*PROXY, *FAST, "--workers", "2"], 2, False),
    "workers, uds, h11": ([*H11, "--workers", "2"], 2, True),
    "uds, proxy-headers, uvloop": ([*PROXY, *FAST], 1, True),
    "reload, h11": (["--reload", "--reload-dir", "src", *H11], 1, False),
    "reload, uds, uvloop": (["--reload", "--reload-dir", "src", *FAST], 1, True),
}
WORKERS = {"gunicorn, two, uds": ("UvicornWorker", 2), "gunicorn, h11": ("UvicornH11Worker", 1)}


def command(name: str, path: str) -> Command:
    """A server's command line; ``path`` is that of its Unix socket, if it gets one."""
    if name in WORKERS:
        worker, processes = WORKERS[name]
        bind = ["--bind", f"unix:{path}"] if "uds" in name else []
        return gunicorn(APP, *bind, "-k", f"uvicorn_worker.{worker}", processes=processes)
    options, processes, is_unix = COMMANDS[name]
    return uvicorn(APP, *options, *(["--uds", path] if is_unix else []), processes=processes)


@pytest.mark.parametrize("name", [*COMMANDS, *WORKERS])
def test_every_kind_of_stream_leaves(name: str, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    made = command(name, path)
    made.uds = path if path in " ".join(made.args) else None
    with run(made) as server, ExitStack() as stack:
        for kind in KINDS * 2:
            sock = stack.enter_context(connect(made.uds or server.port))
            sock.sendall(f"GET /{kind} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n".encode())
            received = b""
            while b"stream-open" not in received:
                received += sock.recv(65536)
        server.terminate()
        assert server.wait() in (0, -15)
        outcomes = re.findall(r"^(\d+) handed off (\d+), stayed {}$", server.output, re.MULTILINE)
        assert len(outcomes) == made.processes, server.output
        assert sum(int(count) for _, count in outcomes) == 2 * len(KINDS)
        # A process says it once, if it has any stream.
        said = re.findall(r"^(\d+) INFO sse_hub streams are handed off", server.output, re.MULTILINE)
        assert sorted(said) == sorted(process for process, count in outcomes if count != "0")
        assert not re.search("ERROR|Traceback", server.output)
