"""Servers in processes of their own, and a proxy that can break connections."""

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page
from waiting import PATIENCE, promised

ROOT = Path(__file__).parents[2]
STOP_SECONDS = promised(8)


class Server:
    """A program that prints its address, and keeps its port across restarts."""

    def __init__(self, command: list[str], environment: dict[str, str], port: int = 0) -> None:
        self.command = command
        self.environment = environment
        # Bound, but never listening: nobody else gets the port while the program restarts.
        self.reserved = socket.socket()
        if not port:
            self.reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.reserved.bind(("127.0.0.1", 0))
            port = self.reserved.getsockname()[1]
        self.port = port
        self.output = ""
        self.start()
        # A connection for each request, so that none survives a restart.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.Client(
            base_url=self.url, limits=limits, timeout=PATIENCE, trust_env=False, verify=False
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the program, and wait for its address: from then on it accepts connections."""
        environment = {**os.environ, **self.environment, "PORT": str(self.port), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *self.command],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that its workers can be killed too
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if address := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.port = int(address[1])
                break
        else:
            pytest.fail(f"{self.command} did not start:\n{self.output}")
        # Its output must not fill the pipe.
        self.reader = threading.Thread(target=self.read, args=[self.process.stdout], daemon=True)
        self.reader.start()

    def read(self, stream: Iterator[str]) -> None:
        for line in stream:
            self.output += line

    def stop(self) -> None:
        """Send SIGTERM, which must end the program soon and without a traceback, whatever is connected."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            pytest.fail(f"{self.command} did not stop within {STOP_SECONDS} s:\n{self.output}")
        finally:
            self.reader.join(STOP_SECONDS)
            assert self.process.stdout is not None
            self.process.stdout.close()
        assert "Traceback" not in self.output, self.output

    def kill(self) -> None:
        """Send SIGKILL: the program ends without a word."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join(STOP_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def restart(self) -> None:
        """Stop the program and start it again on the same port."""
        self.stop()
        self.start()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Post JSON and return the JSON of the answer."""
        answer = self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


class TopicPage:
    """A page that reads a topic of ``browser_app``."""

    def __init__(self, page: Page, server: Server, topic: str) -> None:
        self.page = page
        self.server = server
        self.topic = topic

    def push(self, *items: Any, **options: Any) -> list[str]:
        """Publish on its topic; returns the ids. With `cut=True` its stream is ended first."""
        return self.server.post("/push", {"items": items, "topic": self.topic, **options})

    def came_with(self) -> list[str | None]:
        """The Last-Event-ID of each of its requests."""
        return self.server.http.get("/came-with", params={"topic": self.topic}).json()


@contextmanager
def running(*command: str, port: int = 0, **environment: str) -> Iterator[Server]:
    """A server for the time of a with block: `running("-m", "examples.demo", SSE_HUB_TICK="0.1")`."""
    server = Server(list(command), environment, port)
    try:
        yield server
    finally:
        server.http.close()
        server.stop()
        server.reserved.close()


class Proxy:
    """A TCP relay in front of a server, which can break all connections and let new ones wait."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.through = threading.Event()
        self.through.set()
        # The relay loses all bytes behind these on their connection, so that a cut comes at that very place.
        # All else waits for `mend` then: a client may notice the silence, and come back before the cut.
        self.stop_at: bytes | None = None
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self.threads: list[threading.Thread] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.run(self.accept)

    def run(self, function: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.run(self.connect, client)

    def connect(self, client: socket.socket) -> None:
        self.through.wait()
        try:
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            client.close()
            return
        with self.lock:
            self.pairs.append((client, server))
        self.run(self.relay, client, server)
        self.run(self.relay, server, client)

    def relay(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.through.wait()
                before, found, _ = data.partition(self.stop_at) if self.stop_at else (data, b"", b"")
                if found:
                    self.through.clear()
                sink.sendall(before + found)
                if found:
                    self.stop_at = None
                    self.stopped.set()
                    return
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Break every connection with a reset; new connections wait for `mend`."""
        self.through.clear()
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RD)
                end.close()

    def mend(self) -> None:
        """Let connections through again."""
        self.through.set()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()
        self.mend()
        for thread in self.threads:
            thread.join(PATIENCE)
        self.cut()
