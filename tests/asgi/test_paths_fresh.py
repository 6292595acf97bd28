"""How much of what a slow client reads is old, through real sockets and on both paths.

What has left the hub is neither dropped nor replaced. A client that stops reading shows how much that is:
what it reads later, before it comes to what is new.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fresh_app import NOTSENT_LOWAT
from servers import HOST, granian, run, self_signed
from sse_hub import EventSourceResponse, Hub
from sse_hub._servers.uvicorn import find_cycle
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from waiting import until
from wire import WAYS, Site, Stream

SITES = tuple(WAYS)

LAST = 800


@pytest.mark.parametrize("kind", ["dropped", "replaced"])
def test_little_is_old(site: Site, kind: str) -> None:
    hub = site.hub(capacity=8, history=0)
    options: dict[str, Any] = {"overflow": "drop_oldest"} if kind == "dropped" else {}
    key = None if kind == "dropped" else "k"
    with (
        site.stream(hub, client={"receive_buffer": 4096}, **options) as slow,
        site.stream(hub) as healthy,
    ):
        for n in range(LAST + 1):
            hub.publish("t", {"n": n, "fill": "x" * 1000}, key=key)
            assert healthy.event().json()["n"] == n
        numbers: list[int] = []
        while not numbers or numbers[-1] != LAST:
            event = slow.next()
            if event.event == "message":
                numbers.append(event.json()["n"])
        # The client's own window, a few KiB in the kernel, and a write that it did not take: on an event loop
        # that is everything that came while the loop was busy. Without limits the kernel takes 64 KiB of a
        # handed-off stream, and all of this of another.
        assert len(numbers) <= (LAST / 2 if site.path == "loop" else 40)


def old_values(publish: Callable[[dict[str, Any]], object], slow: Stream, healthy: Stream) -> int:
    """How many values of one key a client reads that read nothing until the last of 200 was published."""
    for n in range(200):
        publish({"n": n, "fill": "x" * 1000})
        assert healthy.event().json()["n"] == n
    old = 0
    while slow.event().json()["n"] != n:
        old += 1
    return old


def as_endpoint(hub: Hub) -> ASGIApp:
    return hub.endpoint("t")


def as_event_source_response(hub: Hub) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await EventSourceResponse(hub.subscribe("t"))(scope, receive, send)

    return app


def behind_unknown_middleware(hub: Hub) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def passes(message: Message) -> None:
            await send(message)

        await hub.endpoint("t")(scope, receive, passes)

    return app


@pytest.mark.parametrize("app", [as_endpoint, as_event_source_response, behind_unknown_middleware])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_little_is_old_over_tls(app: Callable[[Hub], ASGIApp], loop: str, tmp_path: Path) -> None:
    key, certificate, context = self_signed(tmp_path)
    site = Site("portable", loop=loop, ssl_keyfile=key, ssl_certfile=certificate)
    try:
        hub = site.hub(history=0)
        site.app = app(hub)
        with site.raw(tls=context, receive_buffer=4096) as slow, site.raw(tls=context) as healthy:
            slow.opened()
            healthy.opened()
            # The transport below that of TLS takes 64 KiB.
            assert old_values(lambda value: hub.publish("t", value, key="k"), slow, healthy) <= 30
    finally:
        site.close()


@pytest.mark.parametrize("is_tls", [False, True])
def test_little_is_old_on_granian(is_tls: bool, tmp_path: Path) -> None:
    key, certificate, context = self_signed(tmp_path)
    options = ["--ssl-keyfile", key, "--ssl-certificate", certificate] if is_tls else []
    with (
        run(granian("fresh_app:app", *options)) as server,
        httpx.Client(base_url=f"http{'s' * is_tls}://{HOST}:{server.port}", verify=context) as http,
        Stream(server.port, receive_buffer=4096, tls=context if is_tls else None) as slow,
        Stream(server.port, tls=context if is_tls else None) as healthy,
    ):
        slow.opened()
        healthy.opened()
        http.post("/", json={"n": -1})  # from its first value on a stream is held to that
        assert slow.event().json() == healthy.event().json() == {"n": -1}
        until(lambda: http.get("/limited").json() == 2)
        assert old_values(lambda value: http.post("/", json=value), slow, healthy) <= 30
        # The connections are as before when the streams are over.
        assert http.delete("/").json() == 2
        for stream in (slow, healthy):
            stream.rest()
            assert stream.ended
        until(lambda: http.get("/limited").json() == 0)
        slow.received = b""
        slow.sock.sendall(f"GET /limited HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        assert slow.read_until(b"\r\n\r\n0").startswith(b"HTTP/1.1 200")


def test_a_slow_client_is_given_little_of_a_long_queue_at_a_time(site: Site) -> None:
    hub = site.hub(history=0)
    rows = 100

    with (
        site.stream(hub, client={"receive_buffer": 4096}) as slow,
        site.stream(hub) as healthy,
    ):

        def publish(turn: int) -> None:
            for row in range(rows):
                hub.publish("t", {"turn": turn, "row": row, "fill": "x" * 1000}, key=str(row))
                assert healthy.event().json()["turn"] == turn

        def read() -> dict[str, Any]:
            value: dict[str, Any] = slow.event().json()
            return value

        publish(0)
        row = 0
        while row < 20:
            time.sleep(0.03)  # a client that reads faster is not slow, and is given everything
            row = read()["row"]
        # A write of all that waited would be on its way by now: 80 KB of it.
        publish(1)
        old, table = 0, set[int]()
        while len(table) < rows:
            value = read()
            old += value["turn"] == 0
            if value["turn"] == 1:
                table.add(value["row"])
        assert old <= 40


def test_the_connection_is_as_before_when_the_stream_is_over(site: Site) -> None:
    hub = site.hub(handoff=False)

    def buffers(request: Request) -> list[int]:
        cycle = find_cycle(request.receive)
        assert cycle is not None
        sock = cycle.transport.get_extra_info("socket")
        with socket.socket(fileno=socket.dup(sock.fileno())) as same:
            unsent = same.getsockopt(socket.IPPROTO_TCP, NOTSENT_LOWAT)
        return [*cycle.transport.get_write_buffer_limits(), unsent]

    seen: list[list[int]] = []

    def answer(request: Request) -> Response:
        seen.append(buffers(request))
        if request.query_params.get("what") == "stream":
            return hub.response("t", overflow="drop_oldest")
        return JSONResponse({"seen": seen})

    site.serve(answer)
    with site.raw("/?what=stream") as stream:
        stream.opened()
        hub.disconnect(id=hub.subscribers()[0].id)
        stream.rest()
        assert stream.ended
        stream.received = b""
        stream.sock.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        body = stream.read_until(b"]]}").partition(b"\r\n\r\n")[2]
        before, after = json.loads(body)["seen"]
        assert before == after
