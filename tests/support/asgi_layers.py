"""Middleware in plain ASGI, of which the library knows nothing."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Passing:
    """Pure ASGI, changes nothing of the body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def wrapped_receive() -> Message:
            return await receive()

        async def wrapped_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-passed", b"1")]
            await send(message)

        await self.app(dict(scope), wrapped_receive, wrapped_send)


class Awaiting(Passing):
    """Pure ASGI, changes nothing, and takes its time after each message that it passed on."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def wrapped_send(message: Message) -> None:
            await send(message)
            await asyncio.sleep(0.02)

        await self.app(scope, receive, wrapped_send)
