"""The head of a generator's stream goes out with the first event, or at once if there is none yet."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from live import Server, serve
from sse_hub import EventSourceResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from waiting import PATIENCE
from wire import segments

HANDOFF = pytest.mark.parametrize("handoff", [None, True])
HTTP = pytest.mark.parametrize("http", ["httptools", "h11"])


@contextmanager
def streaming(
    content: Callable[[], Any], handoff: bool | None, *middleware: Any, http: str = "auto", **options: Any
) -> Iterator[Server]:
    app = FastAPI()
    for each in middleware:
        app.add_middleware(each)

    @app.get("/")
    async def events() -> EventSourceResponse:
        return EventSourceResponse(content(), ping=0, sep="\n", handoff=handoff, **options)

    with serve(app, http=http) as server:
        yield server


@contextmanager
def request(server: Server, version: str = "1.1", headers: str = "") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
        client.sendall(f"GET / HTTP/{version}\r\nHost: x\r\n{headers}\r\n".encode())
        yield client


def rest(client: socket.socket) -> bytes:
    received = b""
    while part := client.recv(65536):
        received += part
    return received


@HANDOFF
@HTTP
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's tcp_info")
def test_the_head_and_the_first_event_are_one_write(handoff: bool | None, http: str) -> None:
    async def content() -> AsyncIterator[str]:
        yield "a"
        await asyncio.get_running_loop().create_future()

    with streaming(content, handoff, http=http) as server, request(server) as client:
        received = b""
        while b"data: a\n\n" not in received:
            received += client.recv(65536)
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert segments(client) == 1


go_on = threading.Event()


class GoesOn:
    """Middleware that works on when the application has returned."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
        if scope["type"] == "http":
            await asyncio.to_thread(go_on.wait, PATIENCE)


@HANDOFF
@pytest.mark.parametrize("what", ["content", "def content", "the request"])
def test_the_head_does_not_wait(handoff: bool | None, what: str) -> None:
    async def content() -> AsyncIterator[str]:
        if what == "content":
            await asyncio.to_thread(go_on.wait, PATIENCE)
        yield "a"

    def blocking() -> Iterator[str]:
        go_on.wait(PATIENCE)
        yield "a"

    chosen: Any = blocking if what == "def content" else content
    middleware = [GoesOn] if what == "the request" else []
    go_on.clear()
    with streaming(chosen, handoff, *middleware) as server, request(server) as client:
        try:
            first = client.recv(65536)
            assert b"\r\n\r\n" in first
            assert (b"data: a" in first) is (what == "the request" and not handoff)
        finally:
            go_on.set()
        while b"data: a\n\n" not in first:
            first += client.recv(65536)


class Unusable:
    """Content that fails where it begins."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __aiter__(self) -> Unusable:
        if self.where == "__aiter__":
            raise LookupError("no iterator")
        return self

    def __anext__(self) -> Any:
        raise StopAsyncIteration if self.where == "end" else LookupError("no event")


@HANDOFF
@pytest.mark.parametrize("where", ["__aiter__", "__anext__", "end"])
def test_the_head_goes_out_before_content_that_fails(handoff: bool | None, where: str) -> None:
    with (
        streaming(lambda: Unusable(where), handoff) as server,
        request(server, headers="Connection: close\r\n") as client,
    ):
        received = rest(client)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.endswith(b"0\r\n\r\n") is (where == "end")


@HTTP
@pytest.mark.parametrize("how", ["a length", "HTTP/1.0"])
def test_a_body_without_chunks_is_whole(http: str, how: str) -> None:
    async def content() -> AsyncIterator[str]:
        yield "a"
        yield "b"

    headers = {"Content-Length": "18", "Connection": "close"} if how == "a length" else None
    with streaming(content, None, http=http, headers=headers) as server:
        for _ in range(2):
            with request(server, "1.0" if how == "HTTP/1.0" else "1.1") as client:
                received = b""
                while b"data: b\n\n" not in received:
                    received += client.recv(65536)
            assert received.startswith(b"HTTP/1.1 200 OK\r\n")
            assert received.count(b"HTTP/1.1") == 1
