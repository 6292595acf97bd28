"""Starlette's ``SessionMiddleware``: what an endpoint sets arrives as a cookie, whoever writes the stream."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from sse_hub import EventSourceResponse, Hub
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from waiting import until
from wire import WAYS, Site

SITES = tuple(way for way, (path, _) in WAYS.items() if path == "reactor")


async def visits(count: int) -> AsyncIterator[str]:
    yield str(count)
    await asyncio.get_running_loop().create_future()


STREAMS: dict[str, Callable[[Hub, bool, int], Response]] = {
    "response": lambda hub, handoff, count: hub.response(str(count), handoff=handoff),
    "subscription": lambda hub, handoff, count: EventSourceResponse(
        hub.subscribe(str(count)), handoff=handoff
    ),
    "generator": lambda hub, handoff, count: EventSourceResponse(visits(count), handoff=handoff, sep="\n"),
}


@pytest.mark.parametrize("handoff", [False, True])
@pytest.mark.parametrize("kind", STREAMS)
def test_a_session_that_an_endpoint_sets_reaches_the_client(site: Site, kind: str, handoff: bool) -> None:
    hub = site.hub()

    def respond(request: Request) -> Response:
        request.session["visits"] = request.session.get("visits", 0) + 1
        return STREAMS[kind](hub, handoff, request.session["visits"])

    site.serve(respond, Middleware(SessionMiddleware, secret_key="x"))
    state: Any = site.server.servers[0].server_state
    cookie = ""
    for count in (1, 2):
        with site.raw(headers=cookie) as stream:
            if kind == "generator":
                assert stream.event().data == str(count)
            else:
                stream.opened()
                hub.publish(str(count), "tick")
                assert stream.take(1) == ["tick"]
            until(lambda: bool(state.connections) is not handoff)
            found = re.search(rb"^set-cookie: (session=[^;]+);", stream.head, re.MULTILINE)
            assert found is not None, stream.head
            cookie = f"Cookie: {found[1].decode()}\r\n"
        until(lambda: not state.connections and hub.count() == 0)
