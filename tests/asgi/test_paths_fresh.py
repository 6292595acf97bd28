"""How much of what a slow client reads is old, through real sockets and on both paths.

What has left the hub is neither dropped nor replaced. A client that stops reading shows how much that is:
what it reads later, before it comes to what is new.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest
from sse_hub._servers.uvicorn import find_cycle
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from wire import WAYS, Site

SITES = tuple(WAYS)

LAST = 800
NOTSENT_LOWAT = 25  # TCP_NOTSENT_LOWAT of Linux, which Python's `socket` does not name


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
