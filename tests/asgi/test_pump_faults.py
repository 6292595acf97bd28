"""Faults around a generator's stream under uvicorn, whether its request stays or was let go."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from fastapi import FastAPI
from live import Server, serve
from sse_hub import EventSourceResponse
from waiting import PATIENCE, promised, until

HANDOFF = pytest.mark.parametrize("handoff", [None, True])
LOOP = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])


@contextmanager
def streaming(content: Any, handoff: bool | None, loop: str = "auto", **options: Any) -> Iterator[Server]:
    app = FastAPI()

    @app.get("/")
    async def events() -> EventSourceResponse:
        return EventSourceResponse(content(), handoff=handoff, **{"ping": 0, "sep": "\n"} | options)

    with serve(app, loop=loop) as server:
        yield server


def connect(server: Server) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    return connection


def reset(connection: socket.socket) -> None:
    """Leave at once: what the server writes from now on fails."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def stall(client: socket.socket, server: Server, count: Callable[[], int], headers: str = "") -> None:
    """Request with a narrow window and read nothing, until ``count`` says that the content is held back."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(PATIENCE)
    client.connect(("127.0.0.1", server.port))
    client.sendall(f"GET / HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
    seen = -1
    while seen != count() or seen == 0:
        seen = count()
        server.http.get("/nothing")
        threading.Event().wait(0.2)


@HANDOFF
@LOOP
def test_a_descriptor_whose_number_is_given_again_receives_nothing(handoff: bool | None, loop: str) -> None:
    ended: list[bytes] = []

    async def content() -> AsyncIterator[str]:
        received = b""
        try:
            while True:
                # Whatever has just become free is taken at once.
                pairs = [socket.socketpair() for _ in range(3)]
                yield "tick"
                for one, other in pairs:
                    for each in (one, other):
                        each.setblocking(False)
                        with suppress(BlockingIOError):
                            received += each.recv(100)
                        each.close()
                await asyncio.sleep(0)
        finally:
            ended.append(received)

    with streaming(content, handoff, loop=loop) as server:
        for number in range(10):
            connection = connect(server)
            received = b""
            while received.count(b"tick") < 5:
                received += connection.recv(4096)
            reset(connection)
            until(lambda number=number: len(ended) == number + 1)  # type: ignore[misc]
    assert ended == [b""] * 10


@HANDOFF
def test_streams_go_on_while_the_process_has_no_descriptor_left(handoff: bool | None) -> None:
    go_on = threading.Event()

    async def content() -> AsyncIterator[str]:
        yield "before"
        await asyncio.to_thread(go_on.wait, PATIENCE)
        yield "after"

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    with streaming(content, handoff) as server, server.stream("/") as first:
        assert first.next().data == "before"
        # Connected, and not sent yet: it begins when nothing is left.
        waiting = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
        assert server.http.get("/nothing").status_code == 404
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
            with suppress(OSError):
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            waiting.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            while b"data: before" not in received:
                received += waiting.recv(4096)
            go_on.set()
            assert [event.data for event in first.rest()] == ["after"]
            while not received.endswith(b"0\r\n\r\n"):
                received += waiting.recv(4096)
        finally:
            for descriptor in taken:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            waiting.close()
    assert b"data: after" in received


@HANDOFF
@pytest.mark.parametrize("content", ["drains", "waits"])
def test_pings_do_not_pile_up_for_a_client_that_stalls(handoff: bool | None, content: str) -> None:
    go_on = threading.Event()
    ping = b": ping" + b"x" * 100_000 + b"\n\n"
    made = yielded = 0

    def make_ping() -> bytes:
        nonlocal made
        made += 1
        return ping

    async def events() -> AsyncIterator[str]:
        nonlocal yielded
        for number in range(20_000 if content == "drains" else 1):
            yielded += 1
            yield f"{number} {'x' * 500}"
        await asyncio.to_thread(go_on.wait, PATIENCE)
        yield "last"

    def count() -> int:
        assert made * len(ping) < 50_000_000, "far more than the kernel and a transport hold"
        return made + yielded if yielded else 0

    options = {"ping": 0.001, "ping_message_factory": make_ping}
    with streaming(events, handoff, **options) as server, socket.socket() as client:
        stall(client, server, count, "Connection: close\r\n")
        go_on.set()
        received = bytearray()
        while part := client.recv(1 << 20):
            received += part
    assert received.endswith(b"0\r\n\r\n")
    data = [line.split()[1] for line in received.split(b"\n") if line.startswith(b"data: ")]
    assert data == [b"%d" % number for number in range(len(data) - 1)] + [b"last"]
    assert received.count(ping) == made
    assert content == "drains" or made > 1


@HANDOFF
@LOOP
@pytest.mark.parametrize("leave", [reset, socket.socket.close])
def test_a_client_leaves_while_its_events_drain(
    handoff: bool | None, loop: str, leave: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    notes: list[str] = []
    made = 0

    async def content() -> AsyncIterator[str]:
        nonlocal made
        try:
            while True:
                made += 1
                yield "x" * 10_000
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)
            notes.append("cleaned up")

    with streaming(content, handoff, loop=loop) as server, socket.socket() as slow:
        stall(slow, server, lambda: made)
        leave(slow)
        until(lambda: notes == ["cleaned up"])
    assert capfd.readouterr().err == ""


@HANDOFF
@LOOP
def test_a_server_stops_within_two_seconds_while_a_client_stalls(handoff: bool | None, loop: str) -> None:
    notes: list[str] = []
    made = 0

    async def content() -> AsyncIterator[str]:
        nonlocal made
        try:
            while True:
                made += 1
                yield "x" * 10_000
                await asyncio.sleep(0)
        finally:
            notes.append("cleaned up")

    with socket.socket() as stalled:
        with streaming(content, handoff, loop=loop) as server:
            stall(stalled, server, lambda: made)
            server.http.close()
            began = time.monotonic()
        assert time.monotonic() - began < promised(2)
    assert notes == ["cleaned up"]
