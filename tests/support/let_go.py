"""Generators whose request is let go: a server that streams one, clients, and one that notes its end."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI
from live import Server, serve
from sse_hub import EventSourceResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from waiting import PATIENCE

__all__ = ["Content", "chunks_of", "client", "read_to_end", "streaming"]


class Requests:
    """Middleware that counts the requests under way."""

    def __init__(self, app: ASGIApp, open: list[str]) -> None:
        self.app, self.open = app, open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") != "/":
            await self.app(scope, receive, send)
            return
        self.open.append("/")
        try:
            await self.app(scope, receive, send)
        finally:
            self.open.remove("/")


@contextmanager
def streaming(
    content: Callable[[], Any],
    app: FastAPI | None = None,
    server: dict[str, Any] | None = None,
    **options: Any,
) -> Iterator[tuple[Server, list[str]]]:
    """A server whose ``/`` streams the content, and its requests under way."""
    app = app or FastAPI()
    requests: list[str] = []
    app.add_middleware(Requests, open=requests)

    @app.get("/")
    async def events() -> EventSourceResponse:
        return EventSourceResponse(content(), handoff=True, **{"ping": 0, "sep": "\n"} | options)

    with serve(app, **server or {}) as serving:
        yield serving, requests


@contextmanager
def client(server: Server, window: int = 0, headers: str = "") -> Iterator[socket.socket]:
    with socket.socket() as connection:
        if window:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        connection.settimeout(PATIENCE)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(f"GET / HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
        yield connection


def read_to_end(connection: socket.socket) -> bytes:
    received = bytearray()
    while part := connection.recv(65536):
        received += part
    return bytes(received)


def chunks_of(answer: bytes) -> list[bytes]:
    """The chunks of a body as the server wrote them (RFC 9112, 7.1), without the last, which is empty."""
    rest = answer.partition(b"\r\n\r\n")[2]
    chunks: list[bytes] = []
    while True:
        size, _, rest = rest.partition(b"\r\n")
        if (length := int(size, 16)) == 0:
            return chunks
        chunks.append(rest[:length])
        rest = rest[length + 2 :]


class Content:
    """A generator that yields ``hello``, waits, and records how it ends."""

    def __init__(self, how: str = "") -> None:
        self.how = how
        self.notes: list[str] = []
        self.waits = threading.Event()

    async def __call__(self) -> AsyncIterator[str]:
        try:
            yield "hello"
            self.waits.set()
            while True:
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError:
                    self.notes.append("cancelled")
                    if self.how != "swallows" or self.notes.count("cancelled") > 1:
                        raise
        finally:
            if self.how == "yields":
                yield "goodbye"
            await asyncio.sleep(0)
            self.notes.append("cleaned up")
