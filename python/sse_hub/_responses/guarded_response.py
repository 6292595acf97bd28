"""A response that first finds out whether its client may listen, and refuses it otherwise."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

from starlette.background import BackgroundTask
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sse_hub._core import _Request
from sse_hub._handoff.taking import COME_BACK_LATER
from sse_hub._responses.sending import sends_denial
from sse_hub._responses.streaming_hub import StreamingHub, check_asyncio
from sse_hub.exceptions import HubClosed, HubFull, NotAuthorized, UserFull

__all__ = ["TURNED_AWAY", "GuardedResponse", "kind_of", "serves_as_response_class"]

logger = logging.getLogger("sse_hub")

TURNED_AWAY = (HubFull, HubClosed, NotAuthorized, OSError)
"""What keeps a client from being subscribed."""

_Init = TypeVar("_Init", bound=Callable[..., Any])

_RETRY_AFTER = "30"  # seconds, for clients that get a status: as in COME_BACK_LATER


def serves_as_response_class(init: _Init) -> _Init:
    """Make a constructor that begins with a hub one that FastAPI finds behind ``response_class=``.

    FastAPI's OpenAPI looks for the option ``status_code`` in the signature, and fails if it finds none. What
    an endpoint returns that is no response, FastAPI wraps in the class: most often None, of a forgotten
    ``return``.
    """

    @functools.wraps(init)
    def checked(self: GuardedResponse, *args: Any, **options: Any) -> None:
        given = args[0] if args else options.get("hub", options.get("content"))
        if not isinstance(given, StreamingHub):
            name = type(self).__name__
            raise TypeError(
                f"an endpoint with response_class={name} returns {self._made_by}, not {kind_of(given)}"
            )
        init(self, *args, **options)

    signature = inspect.signature(init)
    *named, rest = signature.parameters.values()
    status = inspect.Parameter("status_code", inspect.Parameter.KEYWORD_ONLY, default=200, annotation="int")
    setattr(checked, "__signature__", signature.replace(parameters=[*named, status, rest]))  # noqa: B010
    return cast(_Init, checked)


def kind_of(given: object) -> str:
    """What an endpoint returned, for the text of an error."""
    return "None: return is missing" if given is None else type(given).__name__


class GuardedResponse(Response):
    """The part of a hub's response that comes before its stream."""

    media_type = "text/event-stream"
    _made_by: str  # what an application calls for such a response
    background: BackgroundTask | None
    hub: StreamingHub
    _request: _Request
    _asked: _Request
    _control: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        check_asyncio()
        if scope["type"] == "websocket":
            send = sends_denial(send)
        try:
            if await self._may_listen(send) and await self._answer(scope, receive, send):
                return  # The background task runs when the stream ends.
        finally:
            self.hub._drop_claim(self._request)  # A stream that has begun keeps its place.
        if self.background is not None:
            await self.background()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer a client that may listen; True when its stream goes on after this request."""
        raise NotImplementedError

    async def _may_listen(self, send: Send) -> bool:
        """Whether the client may listen, from now on only to topics that are allowed. If not, refuse it."""
        if self.hub._is_expired(self._asked):
            await self._refuse(send, 401)
            return False
        limit = self.hub._max_topics
        if limit is not None and len(set(self._asked._topics)) > limit:
            await self._refuse(send, 400)
            return False
        request: _Request | None = self._asked
        if (authorizer := self.hub._authorizer) is not None:
            try:
                request = await authorizer.within(self._asked)
            except HTTPException:
                raise  # The application's own answer.
            except Exception:
                logger.exception(
                    "hub %r: authorize failed for a newcomer, who comes back later", self.hub.name
                )
                await self._turn_away(send, self.hub._full_status if self._control else 503)
                return False
        if request is None:
            await self._refuse(send, 403)
            return False
        self._request = await self.hub._admitted(request)
        return True

    def _status_for(self, error: Exception) -> int:
        """The status for a client that is turned away; 200 tells a browser when to come back."""
        if isinstance(error, NotAuthorized):
            return 401
        if not self._control:
            return 429 if isinstance(error, UserFull) else 503
        if not isinstance(error, HubFull) or self.hub._full_status == 200:
            return 200
        return 429 if isinstance(error, UserFull) else self.hub._full_status

    async def _turn_away(self, send: Send, status: int) -> None:
        """Tell a client to come back later; with status 200 in the browser's way."""
        if status != 200:
            await self._refuse(send, status)
            return
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": COME_BACK_LATER, "more_body": False})

    async def _refuse(self, send: Send, status: int) -> None:
        headers = MutableHeaders(raw=list(self.raw_headers))
        del headers["Content-Type"]
        if status != 204:
            headers["Content-Length"] = "0"
        if status in (429, 503):
            headers["Retry-After"] = _RETRY_AFTER
        await send({"type": "http.response.start", "status": status, "headers": headers.raw})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
