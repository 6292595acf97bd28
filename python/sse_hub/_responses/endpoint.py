"""A hub's response as an ASGI app."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from sse_hub._responses.options import StreamOptions, Topics

__all__ = ["Endpoint", "PerRequest"]

PerRequest: TypeAlias = Callable[[Request], StreamOptions | Awaitable[StreamOptions]]
"""A function that returns options for one request."""


class Endpoint:
    """What ``Hub.endpoint`` returns: not a function, so a Starlette ``Route`` treats it as an ASGI app.

    Starlette lets every method through to such an app, so this one refuses those that get no stream. Mounted,
    it gets WebSockets as well.
    """

    def __init__(
        self,
        respond: Callable[[Topics, StreamOptions], ASGIApp],
        topics: Topics | Callable[[Request], Topics | Awaitable[Topics]],
        per_request: PerRequest | None,
        methods: Iterable[str],
    ) -> None:
        self._respond = respond
        self._topics = topics
        self._per_request = per_request
        self._methods = _upper(methods)
        if "GET" in self._methods and "HEAD" not in self._methods:
            self._methods.append("HEAD")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
            return
        if scope["method"] not in self._methods:
            await self._refuse(scope, receive, send)
            return
        topics = self._topics
        if callable(topics):
            given = topics(Request(scope, receive))
            topics = await given if inspect.isawaitable(given) else given
        options: StreamOptions = {}
        if self._per_request is not None:
            found = self._per_request(Request(scope, receive))
            options = await found if inspect.isawaitable(found) else found
        await self._respond(topics, options)(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {"Allow": ", ".join(self._methods)}
        if "app" in scope:  # it may have a handler for such errors
            raise HTTPException(status_code=405, headers=headers)
        await PlainTextResponse("Method Not Allowed", 405, headers)(scope, receive, send)


def _upper(methods: Iterable[str]) -> list[str]:
    given = [methods] if isinstance(methods, str) else methods
    if isinstance(given, Iterable):
        given = list(given)
        if all(isinstance(method, str) for method in given):
            return [method.upper() for method in given]
    raise TypeError(f"methods is an iterable of str, not {methods!r}")
