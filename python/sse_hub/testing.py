"""An event-stream client for tests, in process, and a clock that tests drive.

Test clients of HTTP libraries wait for the end of a response, which an event stream does not have. This one
reads events as they come::

    from sse_hub.testing import connect

    async def test_a_price_arrives():
        async with connect(app, "/events") as client:
            assert client.status_code == 200
            hub.publish("prices", {"eur": 1})
            event = await client.next()
            assert event.json() == {"eur": 1}

What depends on time (heartbeats, ``stall_timeout``, ``max_age``, ``history_age``) is tested without waiting,
on a hub whose clock stands still until it is moved::

    clock = Clock()
    hub = clock.hub(heartbeat=15)
    ...
    await clock.advance(15)

Everything here belongs to the event loop it is used on and is not thread-safe.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Generator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Scope

from sse_hub._testing.event_parser import Event, EventParser
from sse_hub.hub import Hub

__all__ = ["Clock", "Connecting", "Event", "EventClient", "EventParser", "StreamEnded", "connect", "lifespan"]

T = TypeVar("T")

# How long an application gets to end after its client left, in seconds.
_PATIENCE = 5.0
# Turns of the event loop after which what was due has happened, through several middlewares too.
_TURNS = 30
# The clock's resolution in seconds.
_TICK = 1e-9


class StreamEnded(Exception):
    """The server ended the response, or cut it, and no more events can come."""


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
    """Request ``url`` of ``app`` and give a client of the event stream once the response has begun.

    Use it as ``async with connect(app, "/events") as client``, or as
    ``client = await connect(app, "/events")`` with ``await client.close()`` at the end.

    Args:
        app: any ASGI application, called in a task of its own.
        url: a path with an optional query, or a whole URL.
        method: of the request.
        headers: of the request, beside ``Host`` and ``Accept: text/event-stream``.
        body: of the request.
        last_event_id: sent as ``Last-Event-ID``, as a browser does that reconnects.
        control: whether ``next`` and the like also give the hub's own events (``stream-open``,
            ``stream-cursor``, ``stream-reset``, ``stream-lagged``), which are skipped otherwise.
        comments: whether they also give comment lines, as events with the name ``":"`` and the text as data.
            Heartbeats are such lines.
        state: what ``request.state`` has, for example from :func:`lifespan`.

    Raises:
        Exception: what the application raised before its response began, as it is.
    """
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
        self._exchange: _Exchange | None = None

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
        """The id of the last event that was looked at (or skipped); empty if there was none.

        It is what :meth:`reconnect` sends: events that were received and not looked at yet do not count, so
        that a test decides after which event its client was cut.
        """
        return self._last_event_id if self._parser.events else self._parser.last_event_id

    @property
    def retry(self) -> int | None:
        """The newest reconnection time the server asked for, in milliseconds, or None."""
        return self._parser.retry

    @property
    def ended(self) -> bool:
        """Whether the server has ended or cut the response. Events that were not looked at may be left."""
        return self._current.over

    async def next(self, timeout: float = 1.0) -> Event:
        """The next event, waiting for it at most ``timeout`` seconds.

        Raises:
            TimeoutError: there was none in time.
            StreamEnded: the response ended without one.
            Exception: what the application raised in the middle of its response, as it is.
        """
        exchange = self._current
        deadline = asyncio.get_running_loop().time() + timeout
        while (event := self._take()) is None:
            exchange.check_end()
            left = deadline - asyncio.get_running_loop().time()
            # After the time is over it looks once more: where the process stood still, both came at once.
            if left <= 0 or (not await exchange.changed(left) and not self._parser.events):
                raise TimeoutError(f"no event within {timeout} s")
        return event

    async def take(self, n: int, timeout: float = 1.0) -> list[Event]:
        """The next ``n`` events, waiting at most ``timeout`` seconds for each. Errors as :meth:`next`."""
        return [await self.next(timeout) for _ in range(n)]

    async def rest(self, timeout: float = 1.0) -> list[Event]:
        """All events up to the end of the response, waiting at most ``timeout`` seconds for each."""
        events = []
        while True:
            try:
                events.append(await self.next(timeout))
            except StreamEnded:
                return events

    async def silent(self, seconds: float = 0.0) -> None:
        """Make sure that nothing arrives for so long; with 0, that nothing is on its way in this event loop.

        Raises:
            AssertionError: an event arrived, or the response ended.
        """
        await _settle()
        try:
            event = await self.next(seconds)
        except TimeoutError:
            return
        except StreamEnded:
            raise AssertionError("the response ended") from None
        raise AssertionError(f"not silent: {event!r}")

    async def reconnect(self, last_event_id: str | None = None) -> Self:
        """Leave, and request the same again with the last id, as a browser does. Returns the client.

        Events that were received and not looked at are forgotten, and come again.

        Args:
            last_event_id: instead of :attr:`last_event_id`.
        """
        last = self.last_event_id if last_event_id is None else last_event_id
        await self.close()
        self._parser, self._last_event_id = EventParser(last), last
        return await self._open()

    def pause(self) -> None:
        """Read no more, as a client does whose network hangs: the application's next ``send`` waits."""
        self._current.reading.clear()

    def resume(self) -> None:
        """Read on."""
        self._current.reading.set()

    async def read(self, timeout: float = 1.0) -> bytes:
        """The whole body up to the end of the response, for one that is not an event stream."""
        exchange = self._current
        async with asyncio.timeout(timeout):
            while not exchange.complete:
                exchange.check_end()
                await exchange.changed(None)
        return b"".join(exchange.body)

    async def close(self) -> None:
        """Leave, and wait until the application has noticed. Does nothing when called again.

        Raises:
            TimeoutError: the application has not ended five seconds later; its task was cancelled.
            Exception: what the application raised, as it is, unless :meth:`next` did already.
        """
        await self._close(raises=True)

    async def _close(self, *, raises: bool) -> None:
        if self._exchange is not None:
            await self._exchange.leave(raises=raises)

    async def _open(self) -> Self:
        url, method, headers, state = self._request
        scope = _scope(url, method, headers, self.last_event_id, state)
        self._exchange = _Exchange(self._app, scope, self._body, self._parser)
        await self._exchange.begun()
        return self

    @property
    def _current(self) -> _Exchange:
        if self._exchange is None:
            raise RuntimeError("not connected: use 'async with connect(...)' or 'await connect(...)'")
        return self._exchange

    def _take(self) -> Event | None:
        """The first event received that is not skipped."""
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


class _Exchange:
    """One request and its response: the server's side of an ASGI application."""

    def __init__(self, app: ASGIApp, scope: Scope, body: bytes, parser: EventParser) -> None:
        self.status_code = 0
        self.headers = Headers()
        self.complete = False
        self.body: list[bytes] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self._parser = parser
        self._requests: deque[Message] = deque(
            [{"type": "http.request", "body": body, "more_body": False}],
        )
        self._left = asyncio.Event()
        self._news = asyncio.Event()
        self._reported = False
        self._task = asyncio.create_task(self._run(app, scope), name=f"{scope['method']} {scope['path']}")
        self._task.add_done_callback(lambda _: self._news.set())

    @property
    def over(self) -> bool:
        return self.complete or self._task.done()

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        await app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._requests:
            return self._requests.popleft()
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._left.is_set():
            return  # As uvicorn does: an application is not told by its sending.
        if message["type"] == "http.response.start":
            self.status_code = message["status"]
            self.headers = Headers(raw=list(message.get("headers", [])))
        elif message["type"] == "http.response.body":
            await self._until_read()
            if not self._left.is_set():
                self._read(message.get("body", b""), last=not message.get("more_body", False))
        self._news.set()

    async def _until_read(self) -> None:
        if not self.reading.is_set():
            # Who leaves takes the connection with it: a write that waits is over then.
            ends = [asyncio.ensure_future(event.wait()) for event in (self.reading, self._left)]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()

    def _read(self, chunk: bytes, *, last: bool) -> None:
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            self._parser.feed(bytes(chunk))
        else:
            self.body.append(bytes(chunk))
        if last:
            self.complete = True
            self._left.set()  # Servers say http.disconnect after the end, too.

    async def begun(self) -> None:
        """Wait for the response's beginning."""
        try:
            while not self.status_code:
                self.check_end()
                await self.changed(None)
        except BaseException:
            await self.leave(raises=False)
            raise

    async def changed(self, timeout: float | None) -> bool:
        """Wait for something new; False when there was nothing in time."""
        self._news.clear()
        if timeout == float("inf"):
            timeout = None
        try:
            async with asyncio.timeout(timeout):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def check_end(self) -> None:
        """Raise why nothing more can come, if so."""
        if self._task.done() and not self._task.cancelled() and (error := self._task.exception()) is not None:
            self._reported = True
            raise error
        if self.complete:
            raise StreamEnded("the response is complete")
        if self._task.done():
            if not self.status_code:
                raise RuntimeError("the application returned without a response")
            raise StreamEnded("the application returned without ending its response, so a server cuts it")

    async def leave(self, *, raises: bool) -> None:
        """Disconnect, and wait for the application's end."""
        self._left.set()
        try:
            done, _ = await asyncio.wait([self._task], timeout=_PATIENCE)
        finally:
            self._task.cancel()
        if not done:
            await asyncio.wait([self._task])
            raise TimeoutError(f"the application did not end {_PATIENCE} s after its client left")
        if raises and not self._reported and not self._task.cancelled():
            self._reported = True
            self._task.result()


def _scope(
    url: str, method: str, headers: Mapping[str, str], last_event_id: str, state: dict[str, Any] | None
) -> Scope:
    parts = urlsplit(url)
    host = parts.netloc or "testserver"
    sent = {"host": host, "accept": "text/event-stream", "cache-control": "no-store"}
    sent |= {name.lower(): value for name, value in headers.items()}
    if last_event_id and "last-event-id" not in sent:
        sent["last-event-id"] = last_event_id
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method.upper(),
        "scheme": parts.scheme or "http",
        "path": unquote(parts.path) or "/",
        "raw_path": parts.path.encode("ascii", "ignore"),
        "query_string": parts.query.encode("ascii", "ignore"),
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode()) for name, value in sent.items()],
        "client": ("testclient", 50000),
        "server": (host.partition(":")[0], 443 if parts.scheme == "https" else 80),
        "extensions": {},
    }
    if state is not None:
        scope["state"] = dict(state)
    return scope


@asynccontextmanager
async def lifespan(app: ASGIApp) -> AsyncIterator[dict[str, Any]]:
    """Run the application's start-up before, and its shutdown after the block; gives its state for requests.

    Raises:
        RuntimeError: the application said that it failed.
    """
    state: dict[str, Any] = {}
    messages: asyncio.Queue[Message] = asyncio.Queue()
    answers: asyncio.Queue[Message] = asyncio.Queue()
    scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
    task: asyncio.Task[None] = asyncio.create_task(_awaited(app(scope, messages.get, answers.put)))

    async def ask(kind: str) -> None:
        await messages.put({"type": f"lifespan.{kind}"})
        answer = asyncio.ensure_future(answers.get())
        await asyncio.wait([answer, task], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            task.result()
            raise RuntimeError(f"the application has no lifespan: it returned before its {kind} was complete")
        if answer.result()["type"] != f"lifespan.{kind}.complete":
            raise RuntimeError(f"{kind} failed: {answer.result().get('message', '')}")

    try:
        await ask("startup")
        try:
            yield state
        finally:
            await ask("shutdown")
    finally:
        task.cancel()
        await asyncio.wait([task])


class Clock:
    """A clock that stands still until a test moves it, and the hubs that run on it."""

    def __init__(self) -> None:
        self._hubs: list[Hub] = []

    def hub(self, **options: Any) -> Hub:
        """A hub on this clock. The options are those of :class:`sse_hub.Hub`."""
        hub = Hub(_manual_clock=True, **options)
        self._hubs.append(hub)
        return hub

    async def advance(self, seconds: float) -> None:
        """Move the clock, and let everything happen that becomes due on the way, each at its own time.

        When it returns, heartbeats have been handed to the ASGI server (or the test client), and streams
        have ended whose time was over, as far as they run on this event loop.

        Raises:
            ValueError: ``seconds`` is negative.
        """
        if seconds < 0:
            raise ValueError(f"seconds must not be negative, not {seconds}")
        await _settle(*self._hubs)
        for hub in self._hubs:
            await self._advance(hub, seconds)

    @staticmethod
    async def _advance(hub: Hub, seconds: float) -> None:
        while True:
            due = hub._next_due()
            # What is overdue after all has settled belongs to another event loop, or to one that is closed.
            step = min(seconds, due) if due else seconds
            step = max(step, _TICK)
            hub._advance(step)
            await _settle(hub)
            seconds -= step
            if seconds < _TICK:
                return


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


async def _settle(*hubs: Hub) -> None:
    """Let the event loop run what is ready, and what that makes ready."""
    # A hub resumes its clients 128 in a turn.
    crowds = sum(hub.count() for hub in hubs) // 64
    for _ in range(_TURNS + crowds):
        await asyncio.sleep(0)
