"""The client of an event stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Mapping
from types import TracebackType
from typing import Any, Self

from starlette.datastructures import Headers
from starlette.types import ASGIApp

from sse_hub._arguments import check_flag, check_seconds, check_text
from sse_hub._testing.event_parser import Event, EventParser
from sse_hub._testing.exchange import Exchange, StreamEnded, make_scope
from sse_hub._testing.turns import run_until_idle

__all__ = ["Connecting", "EventClient", "connect"]


def connect(
    app: ASGIApp,
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    last_event_id: str | None = None,
    control: bool = False,
    comments: bool = False,
    state: dict[str, Any] | None = None,
) -> Connecting:
    """Request ``url`` from ``app``, and return a client of the event stream once the response has begun.

    Use it as ``async with connect(app, "/events") as client``, or as
    ``client = await connect(app, "/events")`` with ``await client.close()`` at the end.

    Args:
        app: any ASGI application, called in a task of its own.
        url: a path with an optional query, or a whole URL.
        method: of the request.
        headers: of the request, besides ``Host`` and ``Accept: text/event-stream``.
        body: of the request.
        last_event_id: sent as ``Last-Event-ID``, as a browser that reconnects does.
        control: whether ``next`` and the like also return the hub's own events (``stream-open``,
            ``stream-cursor``, ``stream-reset``, ``stream-lagged``), which are skipped otherwise.
        comments: whether they also return comment lines, as events with the name ``":"`` and the text as
            data. Heartbeats are such lines.
        state: the content of ``request.state``, for example from :func:`lifespan`.

    Raises:
        ValueError: ``url`` is neither.
        Exception: what the application raised before its response began, unchanged.
    """
    for name, given in (("url", url), ("method", method), ("last_event_id", last_event_id or "")):
        check_text(name, given)
    if not url.startswith("/") and "://" not in url:
        raise ValueError(f"url is a path that begins with /, or a whole URL, not {url!r}")
    if headers is not None and not isinstance(headers, Mapping):
        raise TypeError(f"headers is a mapping of names to values or None, not {type(headers).__name__}")
    check_flag("control", control)
    check_flag("comments", comments)
    if not isinstance(body, bytes):
        raise TypeError(f"body is bytes, not {type(body).__name__}")
    return Connecting(EventClient(app, url, method, headers, body, last_event_id, control, comments, state))


class Connecting:
    """What :func:`connect` returns: awaitable, and an async context manager."""

    def __init__(self, client: EventClient) -> None:
        self._client = client

    def __await__(self) -> Generator[Any, None, EventClient]:
        return self._client._open().__await__()

    async def __aenter__(self) -> EventClient:
        return await self._client._open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client._close(raises=error is None)


class EventClient:
    """A client of an event stream, made by :func:`connect`."""

    def __init__(
        self,
        app: ASGIApp,
        url: str,
        method: str,
        headers: Mapping[str, str] | None,
        body: bytes,
        last_event_id: str | None,
        control: bool,
        comments: bool,
        state: dict[str, Any] | None,
    ) -> None:
        self._app = app
        self._request = (url, method, headers or {}, state)
        self._body = body
        self._control = control
        self._comments = comments
        self._parser = EventParser(last_event_id or "")
        self._last_event_id = last_event_id or ""
        self._exchange: Exchange | None = None

    @property
    def status_code(self) -> int:
        """The response's status."""
        return self._current.status_code

    @property
    def headers(self) -> Headers:
        """The response's headers."""
        return self._current.headers

    @property
    def last_event_id(self) -> str:
        """The id of the last event that was returned or skipped; empty if there was none.

        It is what :meth:`reconnect` sends. Events that were received but not returned do not count, so
        that a test decides after which event its client was cut.
        """
        return self._last_event_id if self._parser.events else self._parser.last_event_id

    @property
    def retry(self) -> int | None:
        """The newest reconnection time the server asked for, in milliseconds, or None."""
        return self._parser.retry

    @property
    def ended(self) -> bool:
        """Whether the server has ended or cut the response. Received events may still wait to be returned."""
        return self._current.over

    async def next(self, timeout: float = 1.0) -> Event:
        """Return the next event, waiting for it at most ``timeout`` seconds.

        Raises:
            TimeoutError: no event came in time.
            StreamEnded: the response ended without one.
            Exception: what the application raised in the middle of its response, unchanged.
        """
        exchange = self._current
        deadline = asyncio.get_running_loop().time() + check_seconds("timeout", timeout)
        in_time = True
        while (event := self._take()) is None:
            exchange.check_end()
            if not in_time:
                raise TimeoutError(f"no event within {timeout} s")
            in_time = await exchange.changed_before(deadline)
        return event

    async def take(self, n: int, timeout: float = 1.0) -> list[Event]:
        """Return the next ``n`` events, waiting at most ``timeout`` seconds for each.

        Raises what :meth:`next` raises.
        """
        return [await self.next(timeout) for _ in range(n)]

    async def rest(self, timeout: float = 1.0) -> list[Event]:
        """Return all events up to the end of the response, waiting at most ``timeout`` seconds for each."""
        events = []
        while True:
            try:
                events.append(await self.next(timeout))
            except StreamEnded:
                return events

    async def silent(self, seconds: float = 0.0) -> None:
        """Check that nothing arrives for ``seconds``; with 0, that nothing is on its way in this event loop.

        Raises:
            AssertionError: an event arrived, or the response ended.
        """
        await run_until_idle()
        try:
            event = await self.next(seconds)
        except TimeoutError:
            return
        except StreamEnded:
            raise AssertionError("the response ended") from None
        raise AssertionError(f"not silent: {event!r}")

    async def reconnect(self, last_event_id: str | None = None) -> Self:
        """Leave, and repeat the request with the last id, as a browser does. Returns the client.

        Events that were received but not returned are dropped, and arrive again.

        Args:
            last_event_id: instead of :attr:`last_event_id`.
        """
        last = self.last_event_id if last_event_id is None else last_event_id
        await self.close()
        self._parser, self._last_event_id = EventParser(last), last
        return await self._open()

    def pause(self) -> None:
        """Stop reading, like a client whose network hangs: the application's next ``send`` waits."""
        self._current.reading.clear()

    def resume(self) -> None:
        """Read again."""
        self._current.reading.set()

    async def read(self, timeout: float = 1.0) -> bytes:
        """Return the whole body up to the end of the response, for one that is not an event stream."""
        exchange = self._current
        deadline = asyncio.get_running_loop().time() + check_seconds("timeout", timeout)
        in_time = True
        while not exchange.complete:
            exchange.check_end()
            if not in_time:
                raise TimeoutError(f"the response has not ended within {timeout} s")
            in_time = await exchange.changed_before(deadline)
        return b"".join(exchange.body)

    async def close(self) -> None:
        """Leave, and wait until the application has noticed. Does nothing when called again.

        Raises:
            TimeoutError: the application has not ended five seconds later; its task was cancelled.
            Exception: what the application raised, unchanged, unless :meth:`next` has raised it already.
        """
        await self._close(raises=True)

    async def _close(self, *, raises: bool) -> None:
        if self._exchange is not None:
            await self._exchange.leave(raises=raises)

    async def _open(self) -> Self:
        url, method, headers, state = self._request
        scope = make_scope(url, method, headers, self.last_event_id, state)
        self._exchange = Exchange(self._app, scope, self._body, self._parser)
        await self._exchange.begun()
        return self

    @property
    def _current(self) -> Exchange:
        if self._exchange is None:
            raise RuntimeError("not connected: use 'async with connect(...)' or 'await connect(...)'")
        return self._exchange

    def _take(self) -> Event | None:
        """The first received event that is not skipped."""
        events = self._parser.events
        while events:
            event = events.popleft()
            self._last_event_id = event.id
            if event.is_comment:
                if self._comments:
                    return event
            elif self._control or not event.event.startswith("stream-"):
                return event
        return None

    def __aiter__(self) -> AsyncIterator[Event]:
        """The events up to the end of the response, waiting as long as it takes."""
        return self._events()

    async def _events(self) -> AsyncIterator[Event]:
        while True:
            try:
                event = await self.next(float("inf"))
            except StreamEnded:
                return
            yield event
