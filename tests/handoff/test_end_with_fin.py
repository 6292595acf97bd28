"""A client that has the end of a handed-off stream also sees that its connection closes.

The head promises nothing about that, so a client that had the end alone would keep the connection, and send
its next request to a server that has closed it.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import FastAPI
from live import serve
from sse_hub import EventSourceResponse, Hub
from starlette.responses import Response

STREAMS = 150
CORKED = 0.15  # seconds


def of_a_hub(hub: Hub) -> Response:
    return hub.response("t", replay="all")


def of_a_generator(hub: Hub) -> Response:
    async def content() -> AsyncIterator[str]:
        yield "a"

    return EventSourceResponse(content(), handoff=True)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("response", [of_a_hub, of_a_generator])
def test_the_end_and_the_fin_come_together(response: Callable[[Hub], Response], loop: str) -> None:
    hub, app = Hub(), FastAPI()
    hub.publish("t", "a")
    hub.end("t")

    @app.get("/events")
    async def events() -> Any:
        return response(hub)

    with serve(app, loop=loop) as server:
        for _ in range(STREAMS):
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                asked = time.monotonic()
                client.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
                got = b""
                while not got.endswith(b"\r\n0\r\n\r\n"):
                    new = client.recv(65536)
                    assert new, got
                    got += new
                # What is held back for the FIN, Linux sends after 200 ms without it (tcp(7), TCP_CORK).
                if time.monotonic() - asked < CORKED:
                    assert select.select([client], [], [], 0)[0], "the client may use the connection again"
                assert client.recv(1) == b""
    assert hub.stats()["stayed"] == {}
