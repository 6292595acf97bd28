"""``stats()["stayed"]`` counts each stream that stays with its server by its reason, and the stream is whole.

The reasons that are missing here have tests of their own: options, middleware, dependencies, other servers.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import pytest
from servers import HOST, WEB_SOCKET, Client, self_signed
from sse_hub import EventSourceResponse, Hub
from sse_hub._servers.stay import Stay
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from waiting import PATIENCE, until
from wire import WAYS, Site, Stream, narrow_site, only, quiet

SITES = tuple(way for way, (path, _) in WAYS.items() if path == "reactor")
REST = b" / HTTP/1.1\r\nHost: x\r\n"
REQUESTS = {
    "http_version": b"GET / HTTP/1.0\r\nHost: x\r\n\r\n",
    "request_body": b"POST" + REST + b"Content-Length: 4\r\n\r\nbody",
    "expect_continue": b"GET" + REST + b"Expect: 100-continue\r\n\r\n",
    "pipelined": (b"GET" + REST + b"\r\n") * 2,
}


def stays(hub: Hub, reason: str) -> None:
    assert only(hub).path == "loop"
    assert hub.stats()["stayed"] == {reason: 1}


@pytest.mark.parametrize("reason", REQUESTS)
def test_because_of_the_request(site: Site, reason: str) -> None:
    hub = site.hub()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await hub.response("t")(scope, receive, send)

    site.app = app
    with socket.create_connection((HOST, site.port), PATIENCE) as sock:
        sock.sendall(REQUESTS[reason])
        received = b""
        for expected in (b"stream-open", b'data: "tick"\n\n'):
            while expected not in received:
                part = sock.recv(65536)
                assert part, received
                received += part
            if expected == b"stream-open":
                hub.publish("t", "tick")
        stays(hub, reason)


# What uvicorn says of a CONNECT: httptools takes what follows for another protocol, h11 refuses every body.
CONNECT = {"httptools": "Unsupported upgrade request.", "h11": "Exception in ASGI application\n"}


@pytest.mark.parametrize("way", SITES)
def test_because_of_the_method(way: str) -> None:
    site = Site(way)
    hub = site.hub()
    site.app = hub.endpoint("t", methods=["CONNECT"])
    with quiet(CONNECT[way]), site.raw(method="CONNECT") as stream:
        if way == "httptools":
            stream.opened()
            hub.publish("t", "tick")
            assert stream.take(1) == ["tick"]
            stays(hub, "method")
        else:
            assert b"stream-open" not in stream.read_to_end()
            assert hub.stats()["stayed"] == {"method": 1}
            assert hub.count() == 0
    site.close_hubs()
    site.close()


@pytest.mark.parametrize("kind", ["response", "subscription"])
def test_because_a_web_socket_is_denied_with_it(kind: str) -> None:
    site = Site("httptools", ws="wsproto")
    hub = site.hub()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = hub.response("t") if kind == "response" else EventSourceResponse(hub.subscribe("t"))
        await response(scope, receive, send)

    site.app = app
    with site.raw(headers=WEB_SOCKET) as stream:
        stream.read_until(b"stream-open")
        hub.publish("t", "tick")
        stream.read_until(b'data: "tick"\n\n')
        stays(hub, "method")
    site.close_hubs()
    site.close()


def test_because_the_hub_is_full(site: Site) -> None:
    hub = site.hub(max_subscribers=1, full_status=503)
    with site.stream(hub):
        with Client(site.port, "/", headers="Connection: close\r\n") as refused:
            assert refused.read_to_end().startswith(b"HTTP/1.1 503 ")
        assert hub.stats()["stayed"] == {"full": 1}


def test_the_last_that_a_hub_has_room_for_does_not_stay(site: Site) -> None:
    for control in (True, False):
        hub = site.hub(max_subscribers=1, full_status=503)
        site.app = hub.endpoint("t", control=control)
        with site.raw() as stream:
            until(lambda hub=hub: hub.count() == 1)
            hub.publish("t", "tick")
            assert stream.take(1) == ["tick"]
            assert only(hub).path == "reactor"
            assert hub.stats()["stayed"] == {}


def test_streams_of_several_loops_are_all_counted() -> None:
    """Without a GIL, threads that count at once would lose some."""
    hub = Hub()
    ready = threading.Barrier(4)

    def count() -> None:
        ready.wait(PATIENCE)
        for _ in range(10_000):
            hub._stays(Stay.OPTION)

    threads = [threading.Thread(target=count) for _ in range(ready.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert hub.stats()["stayed"] == {"option": 40_000}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_because_the_server_encrypts(loop: str, tmp_path: Path) -> None:
    key, certificate, context = self_signed(tmp_path)
    site = Site("httptools", loop=loop, ssl_keyfile=key, ssl_certfile=certificate)
    hub = site.hub()
    site.app = hub.endpoint("t")
    with site.raw(tls=context) as stream:
        stream.opened()
        hub.publish("t", "tick")
        assert stream.take(1) == ["tick"]
        stays(hub, "tls")
    site.close_hubs()
    site.close()


class Begins:
    """Middleware that sends a head of its own, at once."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def without_head(message: Message) -> None:
            if message["type"] != "http.response.start":
                await send(message)

        await send({"type": "http.response.start", "status": 200, "headers": []})
        await self.app(scope, receive, without_head)


def test_because_a_response_was_begun(site: Site) -> None:
    hub = site.hub()
    site.app = Begins(hub.endpoint("t"))
    with site.raw() as stream:
        stream.opened()
        hub.publish("t", "tick")
        assert stream.take(1) == ["tick"]
        stays(hub, "started")


@pytest.mark.parametrize("reason", ["client_left", "stopping"])
def test_because_it_is_over(reason: str) -> None:
    site = Site("httptools")
    hub = site.hub()
    asked, go_on = threading.Event(), threading.Event()
    endpoint = hub.endpoint("t")

    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        asked.set()
        await asyncio.to_thread(go_on.wait, PATIENCE)
        if reason == "client_left":
            while (await receive())["type"] != "http.disconnect":
                pass
        await endpoint(scope, receive, send)

    site.app = late
    with site.raw() as stream:
        assert asked.wait(PATIENCE)
        if reason == "client_left":
            stream.close()
        else:
            site.server.stop()
            until(lambda: not site.server.servers[0].servers[0].is_serving())
        go_on.set()
        if reason == "stopping":
            stream.rest()
            assert stream.ended
    until(lambda: hub.stats()["stayed"] == {reason: 1})
    until(lambda: hub.count() == 0)
    site.close_hubs()
    site.close()


@pytest.mark.parametrize("way", SITES)
def test_because_the_client_does_not_take_the_head(way: str) -> None:
    with narrow_site(way) as site:
        hub = site.hub()
        fill = "x" * 400_000

        def respond(request: Request) -> Response:
            return hub.response("t", headers={"x-fill": fill})

        site.serve(respond)
        with Stream(site.port, receive_buffer=4096) as stream:
            until(lambda: hub.stats()["stayed"] == {"slow_client": 1})
            stream.opened()
            hub.publish("t", "tick")
            assert stream.take(1) == ["tick"]
            assert stream.head.count(fill.encode()) == 1
            assert only(hub).path == "loop"
