"""``EventSourceResponse(subscription)`` that stays with its server, and why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from fastapi import Depends, FastAPI
from sse_hub import EventSourceResponse, Hub
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Send
from waiting import until
from wire import WAYS, Site, only

SITES = tuple(way for way, (path, _) in WAYS.items() if path == "reactor")


async def _nothing(*args: Any) -> None:
    await asyncio.sleep(3600)


OPTIONS: dict[str, dict[str, Any]] = {
    "ping": {"ping": 30},
    "sep": {"sep": "\n"},
    "ping_message_factory": {"ping_message_factory": lambda: "ping"},
    "data_sender_callable": {"data_sender_callable": _nothing},
    "send_timeout": {"send_timeout": 5.0},
    "client_close_handler_callable": {"client_close_handler_callable": lambda message: asyncio.sleep(0)},
    "shutdown_event": {"shutdown_event": anyio.Event()},
    "shutdown_grace_period": {"shutdown_grace_period": 0.1},
    "cleanup_timeout": {"cleanup_timeout": 1.0},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_with_an_option_of_sse_starlette_it_stays_with_the_server(site: Site, option: str) -> None:
    hub = site.hub()
    site.serve(lambda request: EventSourceResponse(hub.subscribe("t"), **OPTIONS[option]))
    stays_with_the_server(site, hub)


def stays_with_the_server(site: Site, hub: Hub, **options: Any) -> None:
    hub.publish("t", "before")
    with site.raw(**options) as stream:
        stream.opened()
        hub.publish("t", 1)
        assert stream.take(1) == [1]
        assert (only(hub).path, hub.stats()["handed_off"]) == ("loop", 0)
        only(hub).close()
        assert [event for event in stream.rest() if not event.is_comment] == []
        assert stream.ended
    until(lambda: hub.count() == 0)


@pytest.mark.parametrize("how", ["option", "overriding"])
def test_dependencies_close_when_it_begins_all_the_same(site: Site, how: str) -> None:
    hub = site.hub()
    app = FastAPI()
    opened: list[str] = []

    class Overriding(EventSourceResponse):
        async def _ping(self, send: Send) -> None:
            await super()._ping(send)

    async def session() -> AsyncIterator[None]:
        opened.append("session")
        yield
        opened.remove("session")

    @app.get("/{held}", dependencies=[Depends(session)])
    async def events(held: int) -> Response:
        response = Overriding if how == "overriding" else EventSourceResponse
        return response(hub.subscribe("t"), ping=30, hold_dependencies=bool(held))

    site.app = app
    for held in (0, 1):
        with site.raw(f"/{held}") as stream:
            stream.opened()
            if held:
                assert opened == ["session"]
            until(lambda held=held: opened == ["session"] * held)  # type: ignore[misc]
            hub.publish("t", 1)
            assert stream.take(1) == [1]
        until(lambda: hub.count() == 0 and opened == [])


def test_a_middleware_that_changes_the_body_keeps_it_with_the_server(site: Site) -> None:
    hub = site.hub()

    class Changing:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def changed(message: Any) -> None:
                if message.get("body"):
                    message = {**message, "body": b": changed\n\n" + message["body"]}
                await send(message)

            await self.app(scope, receive, changed)

    site.serve(lambda request: EventSourceResponse(hub.subscribe("t")), Middleware(Changing))
    stays_with_the_server(site, hub)


def test_one_that_was_iterated_stays_with_the_server(site: Site) -> None:
    hub = site.hub()

    async def endpoint(request: Request) -> Response:
        subscription = hub.subscribe("t")
        assert b"stream-open" in await anext(subscription)
        return EventSourceResponse(subscription)

    site.app = Starlette(routes=[Route("/", endpoint)])
    with site.raw() as stream:
        until(lambda: hub.count() == 1)
        hub.publish("t", 1)
        assert stream.take(1) == [1]
        assert only(hub).path == "loop"
