"""Real servers in subprocesses, and raw-socket clients for them, including clients that do not read.

A test that needs a server under signals, in several processes or with its own event loop starts it here::

    with run(uvicorn("stopping_app:app", "--loop", "uvloop")) as server:
        with Client(server.port, "/events") as client:
            client.read_until(b"\\n\\n")
            server.interrupt()
            client.read_to_end()
        assert server.wait() == 0
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from waiting import PATIENCE, until

ROOT = Path(__file__).resolve().parents[2]
# Servers import their apps from this directory.
IMPORTS = os.pathsep.join([str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")])
HOST = "127.0.0.1"
# The headers of a request for a WebSocket.
WEB_SOCKET = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
# What each server logs once it accepts connections; the group is the port.
LISTENING = r"(?:Uvicorn running on|Running on|Listening at:) https?://[\w.]+:(\d+)"


# Below the ports that Linux gives to outgoing connections, so that none takes a port between its choice and
# the start of its server. Two processes that run tests choose in different orders.
_ports = itertools.cycle(random.sample(range(20_000, 32_000), 12_000))


def free_port() -> int:
    """A port on which nobody listens, for servers that do not accept port 0."""
    for port in itertools.islice(_ports, 12_000):
        with socket.socket() as sock, suppress(OSError):
            sock.bind((HOST, port))
            return port
    raise AssertionError("no port is free")


def connect(where: int | str) -> socket.socket:
    """A connection to a port, or to the path of a Unix socket."""
    sock = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
    sock.settimeout(PATIENCE)
    try:
        sock.connect(where if isinstance(where, str) else (HOST, where))
    except BaseException:
        sock.close()
        raise
    return sock


def wait_until_it_accepts(where: int | str) -> None:
    """Wait for a connection: servers log that they listen a moment before they accept."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connect(where).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "never accepted a connection"
            time.sleep(0.02)
        else:
            return


def wait_until_it_refuses(port: int) -> None:
    """Wait until connections are refused: a server that begins to stop closes its listener first."""
    deadline = time.monotonic() + PATIENCE
    with suppress(ConnectionError):
        while time.monotonic() < deadline:
            socket.create_connection((HOST, port)).close()
            time.sleep(0.02)
        raise AssertionError("still accepts connections")


@dataclass
class Command:
    """A server's command line, and the output that shows it is ready to serve."""

    args: list[str]
    ready: str = r"lifespan started"
    listening: str = LISTENING
    # How many processes print ``ready``.
    processes: int = 1
    env: dict[str, str] = field(default_factory=lambda: {"PYTHONPATH": IMPORTS})
    port: int | None = None
    # The path of the Unix socket that it listens on in place of a port.
    uds: str | None = None


def uvicorn(app: str, *options: str, processes: int = 1) -> Command:
    """uvicorn on a free port, with any of its options."""
    return Command(
        [sys.executable, "-m", "uvicorn", app, "--port", "0", *options],
        processes=processes,
    )


def hypercorn(app: str, *options: str) -> Command:
    """hypercorn on a free port, one worker."""
    return Command([sys.executable, "-m", "hypercorn", app, "--bind", f"{HOST}:0", *options])


def granian(app: str, *options: str) -> Command:
    """granian with the ASGI interface, one worker, on a chosen port: it does not log which one it got."""
    port = free_port()
    args = [sys.executable, "-m", "granian", "--interface", "asgi", "--port", str(port), *options, app]
    return Command(args, port=port)


def gunicorn(app: str, *options: str, processes: int = 1) -> Command:
    """gunicorn with uvicorn's worker class, on a free port."""
    worker = ["-k", "uvicorn_worker.UvicornWorker", "--bind", f"{HOST}:0", "-w", str(processes)]
    worker.append("--no-control-socket")  # one path for all processes of a user: a second one logs an error
    return Command([sys.executable, "-m", "gunicorn", *worker, *options, app], processes=processes)


def staying(command: Command) -> Command:
    """The same server, none of whose streams is handed off."""
    command.env["SSE_HUB_HANDOFF"] = "0"
    return command


def program(source: str) -> Command:
    """A Python program that runs servers itself, and prints what uvicorn logs and what the app prints."""
    return Command([sys.executable, "-u", "-c", source])


ENVIRONMENT = dict(os.environ)
"""Taken once: pytest changes it for each test, and threads that start servers would read it meanwhile."""


class ServerProcess:
    """A server process and its workers in a process group of their own, with everything they printed."""

    def __init__(self, command: Command) -> None:
        env = {**ENVIRONMENT, **command.env, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
        env.pop("PYTHONWARNINGS", None)
        self.process = subprocess.Popen(
            command.args,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            if command.uds is None:
                self.port = command.port or int(self.wait_for(command.listening).group(1))
            else:
                self.port = 0
                self.wait_for("running on unix socket|Listening at: .*unix:")
            self.wait_for(command.ready, times=command.processes)
            wait_until_it_accepts(command.uds or self.port)
        except BaseException:
            self.kill()
            raise

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()

    @property
    def output(self) -> str:
        """Everything printed and logged so far."""
        with self._news:
            return "".join(self._lines)

    def wait_for(self, pattern: str, *, times: int = 1, timeout: float = PATIENCE) -> re.Match[str]:
        """Wait until ``pattern`` was printed ``times`` times; returns the last match."""
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                matches = list(re.finditer(pattern, "".join(self._lines)))
                if len(matches) >= times:
                    return matches[times - 1]
                left = deadline - time.monotonic()
                assert left > 0, f"never printed {times} x {pattern!r}:\n{''.join(self._lines)}"
                ended = self.process.poll() is not None and not self._reader.is_alive()
                assert not ended, f"ended without {pattern!r}:\n{''.join(self._lines)}"
                self._news.wait(min(left, 0.2))

    def terminate(self) -> None:
        """Send SIGTERM to the main process, as a supervisor does."""
        self.process.send_signal(signal.SIGTERM)

    def interrupt(self) -> None:
        """Send SIGINT to every process of the group, as Ctrl-C in a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for the end of the main process; returns its exit code. The output is complete then."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s:\n{self.output}") from None
        self._reader.join(PATIENCE)
        return code

    def abort(self) -> None:
        """End all processes that are left of the group; each prints where its Python threads are."""
        for pid in sorted(psutil.pids(), reverse=True):  # workers first, one after the other
            with suppress(psutil.Error, OSError):
                if os.getpgid(pid) == self.process.pid:
                    process = psutil.Process(pid)
                    process.rlimit(psutil.RLIMIT_CORE, (0, 0))
                    process.send_signal(signal.SIGABRT)  # faulthandler's
                    process.wait(PATIENCE)

    def kill(self) -> None:
        """Kill all processes that are left of the group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(PATIENCE)
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextmanager
def run(command: Command) -> Iterator[ServerProcess]:
    """Start ``command`` and wait until it serves; the with block's end kills all its processes.

    An exception in the with block has a note: what the server printed, and where its threads were.
    """
    server = ServerProcess(command)
    try:
        yield server
    except Exception as error:
        server.abort()
        server.kill()
        error.add_note(f"The server printed:\n{server.output}")
        raise
    finally:
        server.kill()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process for the time of a with block: its connections stay open, and it accepts no others."""
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)  # a moment later
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Client:
    """One raw HTTP/1.1 connection with one request on it, which has no body.

    ``receive_buffer`` makes the kernel take little on the client's behalf, so that one that does not read
    stalls its server after a few KiB instead of megabytes.
    """

    def __init__(
        self,
        port: int,
        path: str,
        *,
        method: str = "GET",
        receive_buffer: int | None = None,
        headers: str = "",
        timeout: float = PATIENCE,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.timeout = timeout
        self.sock = socket.socket()
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(timeout)
        try:
            self.sock.connect((HOST, port))
            if tls is not None:
                self.sock = tls.wrap_socket(self.sock)
        except OSError:
            self.sock.close()
            raise
        if method != "GET":
            headers += "Content-Length: 0\r\n"
        self.sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n{headers}\r\n".encode())
        self.received = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()

    def read_until(self, marker: bytes) -> bytes:
        """Read until ``marker`` arrives; returns the bytes up to it. Later bytes stay in ``received``."""
        while marker not in self.received:
            data = self.sock.recv(65536)
            assert data, f"ended before {marker!r}: {self.received[-500:]!r}"
            self.received += data
        before, _, self.received = self.received.partition(marker)
        return before + marker

    def read_to_end(self) -> bytes:
        """Read until the server closes the connection; returns what is new. A reset raises."""
        deadline = time.monotonic() + self.timeout
        while data := self.sock.recv(65536):
            self.received += data
            assert time.monotonic() < deadline, f"does not end: {self.received[-500:]!r}"
        rest, self.received = self.received, b""
        return rest

    def wait_stalled(self, quiet: float = 0.4) -> None:
        """Without reading, wait until the kernel takes no more bytes of this connection from the server.

        Only meaningful with a server that keeps sending: what it has to send then waits in the process.
        """
        local, remote = self.sock.getsockname()[1], self.sock.getpeername()[1]
        deadline = time.monotonic() + self.timeout
        waiting, since = 0, time.monotonic()
        while waiting == 0 or time.monotonic() - since < quiet:
            assert time.monotonic() < deadline, "never stalled"
            count = _unacknowledged(remote, local)
            if count != waiting:
                waiting, since = count, time.monotonic()
            time.sleep(0.02)


def self_signed(directory: Path) -> tuple[str, str, ssl.SSLContext]:
    """A key and a certificate in this directory, and what a client needs to trust it."""
    key, certificate = str(directory / "key.pem"), str(directory / "cert.pem")
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=test"
    subprocess.run([*make.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    return key, certificate, context


def _unacknowledged(local: int, remote: int) -> int:
    """How many bytes the kernel holds that port ``local`` has to send to port ``remote``."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, here, there, _, queues, *_ = line.split()
        if int(here.partition(":")[2], 16) == local and int(there.partition(":")[2], 16) == remote:
            return int(queues.partition(":")[0], 16)
    return 0


def _loop_factory(config: Any) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if hasattr(config, "get_loop_factory"):
        factory: Callable[[], asyncio.AbstractEventLoop] | None = config.get_loop_factory()
        return factory
    # Until 0.35, uvicorn set a policy instead, for the whole process.
    if config.loop == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


class ThreadServer:
    """uvicorn servers in one thread of this process, on one loop, as a larger program embeds them."""

    def __init__(self, *apps: Any, **config: Any) -> None:
        import uvicorn

        config.setdefault("log_level", "warning")
        self.servers = [uvicorn.Server(uvicorn.Config(app, port=0, **config)) for app in apps]
        self._sockets = [config.bind_socket() for config in (server.config for server in self.servers)]
        self.ports: list[int] = [sock.getsockname()[1] for sock in self._sockets]
        self.ended = [threading.Event() for _ in self.servers]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        for port in self.ports:
            wait_until_it_accepts(port)

    @property
    def port(self) -> int:
        """The port of the first server."""
        return self.ports[0]

    def _run(self) -> None:
        async def main() -> None:
            await asyncio.gather(*map(self._serve, range(len(self.servers))))

        with asyncio.Runner(loop_factory=_loop_factory(self.servers[0].config)) as runner:
            runner.run(main())

    async def _serve(self, index: int) -> None:
        try:
            await self.servers[index].serve(sockets=[self._sockets[index]])
        finally:
            self.ended[index].set()

    def stop(self, index: int = 0) -> None:
        """Ask a server to stop, without waiting."""
        self.servers[index].should_exit = True

    def wait(self, index: int = 0, timeout: float = PATIENCE) -> None:
        """Wait until a server has ended."""
        assert self.ended[index].wait(timeout), "still running"

    def __enter__(self) -> ThreadServer:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.should_exit = server.force_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
