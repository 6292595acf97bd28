"""Runs whose events are a turn of the loop apart, from a moment on that the test chooses."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from sse_hub import Hub
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from wire import Site, Stream


class FastRuns:
    """An application with one run per path. After ``count`` events each run awaits ``then``."""

    def __init__(self, site: Site, count: int, then: Callable[[Hub, str], Awaitable[Any]]) -> None:
        self.hub = site.hub()
        self.begin = threading.Event()
        self._site, self._count, self._then = site, count, then
        site.app = Starlette(routes=[Route("/{id}", self._ask)])

    async def _events(self, id: str) -> AsyncIterator[int]:
        while not self.begin.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for number in range(self._count):
            await asyncio.sleep(0)
            yield number
        await self._then(self.hub, id)

    async def _ask(self, request: Request) -> Response:
        id = request.path_params["id"]
        run = await self.hub.run(id, self._events, id)
        return run.response()

    def watch(self, id: str = "a") -> Stream:
        """A watcher of a run, which starts it."""
        stream = Stream(self._site.port, f"/{id}")
        stream.opened()
        return stream


async def ends(hub: Hub, id: str) -> None:
    """The run's function returns."""


async def waits(hub: Hub, id: str) -> None:
    """It waits for ever."""
    await asyncio.Event().wait()


async def is_stopped(hub: Hub, id: str) -> None:
    """It is cancelled."""
    stopping = asyncio.create_task(hub.stop(id))
    await asyncio.Event().wait()
    await stopping
