"""``EventSourceResponse``: a generator's events to one client, with sse-starlette's API."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterator, Mapping
from functools import partial
from typing import Any, NoReturn, cast

import anyio
from starlette.background import BackgroundTask
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from sse_hub._arguments import check_callback, check_flag, check_flag_if_given, check_seconds
from sse_hub._core import Subscription
from sse_hub._core import _close as close_descriptor
from sse_hub._ends import EndKind
from sse_hub._handoff.attempt import Attempt
from sse_hub._handoff.gzip_body import gzip_rest
from sse_hub._handoff.owned import OwnedConnection
from sse_hub._handoff.taking import (
    end_of_response,
    end_on_socket,
    is_refused_by_environment,
    make_transport_attempt,
    take_socket,
)
from sse_hub._responses.beginning import take_for
from sse_hub._responses.compression import CONTENT_ENCODING, can_compress, check_compress
from sse_hub._responses.content import SyncContent
from sse_hub._responses.dependencies import close_dependencies
from sse_hub._responses.detached_stream import DetachedStream
from sse_hub._responses.event_stream import EventStream
from sse_hub._responses.sending import send_within, sends_denial
from sse_hub._responses.streaming_hub import StreamingHub
from sse_hub._responses.task_group import HOOKS, TaskGroupStream
from sse_hub._servers.stay import Stay, log_once
from sse_hub._stopping.registry import RunningServer, switch
from sse_hub._stopping.serving import on_asyncio
from sse_hub.event import ServerSentEvent
from sse_hub.exceptions import HubClosed

__all__ = ["AsyncContentStream", "Content", "ContentStream", "EventSourceResponse", "SyncContentStream"]

Content = str | bytes | dict[str, Any] | ServerSentEvent | Any
SyncContentStream = Iterator[Content]
AsyncContentStream = AsyncIterable[Content]
ContentStream = AsyncContentStream | SyncContentStream


_HOOKS = [(name, getattr(TaskGroupStream, name)) for name in HOOKS]
_NUMBERS = (int, float)
# The headers of a response that was given none, once there was one.
_usual_headers: list[tuple[bytes, bytes]] = []


def _check_options(
    status_code: int, send_timeout: float | None, shutdown_grace_period: float, cleanup_timeout: float | None
) -> None:
    if not isinstance(status_code, int):
        raise TypeError(f"status_code is an int, not {type(status_code).__name__}")
    if send_timeout is not None:
        check_seconds("send_timeout", send_timeout)
    if check_seconds("shutdown_grace_period", shutdown_grace_period) < 0:
        raise ValueError("shutdown_grace_period must be >= 0")
    if cleanup_timeout is not None and check_seconds("cleanup_timeout", cleanup_timeout) < 0:
        raise ValueError("cleanup_timeout must be >= 0")


class EventSourceResponse(TaskGroupStream, Response):
    """Streams what ``content`` yields to the client as Server-Sent Events.

    Args:
        content: an async iterable or an iterable. What it yields may be a str or any other value (the data of
            an event, through ``str()``), a dict (an event's fields), a ``ServerSentEvent``, or bytes (sent as
            they are). An async iterable is iterated in one task; when the client leaves or the server stops,
            it gets ``asyncio.CancelledError`` where it waits. An iterable runs in a worker thread, one step
            at a time, and is closed there. A ``finally`` runs in both cases. A hub's ``Subscription`` is
            handed off instead if the server supports that, if it was not iterated before, and if no option
            below except ``headers``, ``media_type`` and ``background`` is given.
        status_code: default 200. With any other, a browser stops reconnecting for good.
        headers: more headers. ``Cache-Control`` is ``no-store`` unless it is given here.
        media_type: default ``text/event-stream``.
        background: runs after the stream has ended, also when the client left or the server stopped, but not
            after an exception.
        ping: seconds between comments that keep proxies from closing the connection; default 15, and 0 means
            none. A Subscription has its hub's heartbeats, so it gets pings only when this is given.
        sep: the end of lines, ``"\\r\\n"`` (default), ``"\\r"`` or ``"\\n"``.
        ping_message_factory: makes what is sent as a ping; default a comment with the UTC time.
        data_sender_callable: a coroutine function that runs beside the stream, to feed what it reads from.
            When it returns, the stream goes on; when it raises, the stream ends.
        send_timeout: seconds a client may take for one event or one ping, after which the response raises
            ``SendTimeoutError``; default None, no limit.
        client_close_handler_callable: awaited with the ASGI message when the client has left, before
            ``content`` is cancelled.
        shutdown_event: set when the server stops, so that ``content`` can say goodbye.
        shutdown_grace_period: seconds ``content`` has after that before it is cancelled; default 0.
        cleanup_timeout: seconds that closing ``content`` may take after a failed send, and for which
            ``content`` may ignore its cancellation; default 30, None means no limit.
        handoff: for a Subscription, as in ``Hub.response``. For other content default None, which is False;
            True lets the request end when the stream begins, under uvicorn: only ``content``, which goes on
            in a task of its own, and the connection are kept, and an exception of ``content`` is logged.
            Dependencies with ``yield`` close then, also where the stream stays with its server.
        hold_dependencies: for a Subscription, as in ``Hub.response``. For other content True keeps a stream
            with ``handoff=True`` with its server, and its dependencies open.
        compress: for a Subscription, as in ``Hub.response``, under the conditions for its hand-off that are
            named at ``content``. No other content is compressed.

    Raises:
        ValueError: ``sep`` is none of the three, or ``ping``, ``shutdown_grace_period`` or
            ``cleanup_timeout`` is negative.
        TypeError: ``ping`` is not a number, or ``compress`` is True and ``content`` is no Subscription.

    One response serves one request. An exception that ``content`` raises propagates unchanged.
    """

    DEFAULT_PING_INTERVAL = 15
    DEFAULT_SEPARATOR = "\r\n"
    DEFAULT_CLEANUP_TIMEOUT = 30.0

    body_iterator: AsyncIterable[Content]

    def __init__(
        self,
        content: ContentStream,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str = "text/event-stream",
        background: BackgroundTask | None = None,
        ping: int | float | None = None,
        sep: str | None = None,
        ping_message_factory: Callable[[], Content] | None = None,
        data_sender_callable: Callable[[], Coroutine[None, None, None]] | None = None,
        send_timeout: float | None = None,
        client_close_handler_callable: Callable[[Message], Awaitable[None]] | None = None,
        shutdown_event: anyio.Event | None = None,
        shutdown_grace_period: float = 0,
        cleanup_timeout: float | None = DEFAULT_CLEANUP_TIMEOUT,
        *,
        handoff: bool | None = None,
        hold_dependencies: bool = False,
        compress: bool | None = None,
    ) -> None:
        if sep not in (None, "\r\n", "\r", "\n"):
            raise ValueError(f"sep must be one of: \\r\\n, \\r, \\n, got: {sep!r}")
        self.sep = sep or self.DEFAULT_SEPARATOR
        self._chose_sep = sep is not None

        if isinstance(content, AsyncIterable):
            self.body_iterator = content
        elif hasattr(content, "__iter__") or hasattr(content, "__getitem__"):
            self.body_iterator = SyncContent(content)
        else:
            hint = ": call it" if callable(content) else ""
            if isinstance(content, Response):
                hint = ": it is a response already, return it as it is"
            elif isinstance(content, StreamingHub):
                hint = ": return its response(topics)"
            raise TypeError(
                f"content is a generator or another iterable, def or async, not {content!r}{hint}"
            )

        self.status_code = status_code
        self.media_type = self.media_type if media_type is None else media_type
        if background is not None:
            check_callback("background", background)
        self.background = background
        if data_sender_callable is not None:
            check_callback("data_sender_callable", data_sender_callable)
        self.data_sender_callable = data_sender_callable
        self.send_timeout = send_timeout
        self._compress = self._check_compress(content, compress)
        # A subclass may make its own headers, or have another charset.
        is_usual = headers is None and not self._compress and type(self) is EventSourceResponse
        if is_usual and _usual_headers and self.media_type == "text/event-stream":
            self.raw_headers = _usual_headers.copy()
        else:
            self._init_stream_headers(headers)
            if is_usual and self.media_type == "text/event-stream":
                _usual_headers[:] = self.raw_headers

        self.ping_interval = self.DEFAULT_PING_INTERVAL if ping is None else ping
        self._pings = ping is not None or not isinstance(content, Subscription)
        if ping_message_factory is not None:
            check_callback("ping_message_factory", ping_message_factory)
        self.ping_message_factory = ping_message_factory
        if client_close_handler_callable is not None:
            check_callback("client_close_handler_callable", client_close_handler_callable, "message")
        self.client_close_handler_callable = client_close_handler_callable

        # Most responses have no options, and no check then costs them anything.
        if (
            status_code != 200
            or send_timeout is not None
            or shutdown_grace_period != 0
            or cleanup_timeout != EventSourceResponse.DEFAULT_CLEANUP_TIMEOUT
            or handoff is not None
            or hold_dependencies is not False
        ):
            _check_options(status_code, send_timeout, shutdown_grace_period, cleanup_timeout)
            check_flag_if_given("handoff", handoff)
            check_flag("hold_dependencies", hold_dependencies)
        self._shutdown_event = shutdown_event
        self._shutdown_grace_period = shutdown_grace_period
        self._cleanup_timeout = cleanup_timeout

        self.handoff = handoff
        self.hold_dependencies = hold_dependencies
        self.active = True
        self._lock = None

    def _init_stream_headers(self, headers: Mapping[str, str] | None) -> None:
        merged = MutableHeaders()
        if headers is not None:
            if not isinstance(headers, Mapping):
                raise TypeError(f"headers is a mapping of names to values, not {type(headers).__name__}")
            merged.update(headers)
        # If a cache in front fans out to many clients, the application sets the header.
        merged.setdefault("Cache-Control", "no-store")
        merged["Connection"] = "keep-alive"
        # nginx would collect events until its buffer is full.
        merged["X-Accel-Buffering"] = "no"
        self._compress = self._compress and "Content-Encoding" not in merged
        if self._compress:
            merged.add_vary_header("Accept-Encoding")
        self.init_headers(merged)

    @staticmethod
    def _check_compress(content: ContentStream, given: bool | None) -> bool:
        if isinstance(content, Subscription):
            return check_compress(given, cast(StreamingHub, content._hub)._compress)
        if check_compress(given, False):
            raise TypeError(f"compress=True takes a Subscription as content, not {type(content).__name__}")
        return False

    @property
    def ping_interval(self) -> int | float:
        """Seconds between pings; 0 for none. It may be assigned while the stream runs."""
        return self._ping_interval

    @ping_interval.setter
    def ping_interval(self, value: int | float) -> None:
        if not isinstance(value, _NUMBERS):  # a union would be made anew each time
            raise TypeError("ping interval must be int or float")
        if not value >= 0:  # NaN is no interval either
            raise ValueError("ping interval must be >= 0 (0 disables ping)")
        self._ping_interval = value

    def enable_compression(self, force: bool = False) -> NoReturn:
        """Not supported: every buffer on the way would hold a compressed stream back.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("Compression is not supported for SSE streams.")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream. Returns when it has ended, from either side."""
        if scope["type"] == "websocket":
            send = sends_denial(send)
        start: Message = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self._headers_for(scope),
        }
        if scope["type"] == "http" and scope["method"].upper() == "HEAD":
            # Starlette adds HEAD to every GET route, and a stream without a body would never end.
            await send_within(self.send_timeout, send, start)
            await send_within(
                self.send_timeout, send, {"type": "http.response.body", "body": b"", "more_body": False}
            )
        elif isinstance(self.body_iterator, Subscription) and self.body_iterator._is_over():
            self.body_iterator._end(EndKind.ENDED)
            self.active = False
            headers = [header for header in self._headers_for(scope) if header[0] != b"content-type"]
            await send({**start, "status": 204, "headers": headers})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif self._overrides_hooks() or not on_asyncio():
            if self._needs_no_dependencies():
                await close_dependencies(scope)
            await self._run_task_group(scope, receive, send)
        elif await self._stream(scope, receive, send, start):
            return  # The background task runs when the stream ends.
        if self.background is not None:
            await self.background()

    async def _stream(self, scope: Scope, receive: Receive, send: Send, start: Message) -> bool:
        """Send the stream; True when it was handed off and goes on after this request."""
        subscription = self.body_iterator
        is_plain = isinstance(subscription, Subscription) and self._is_plain()
        is_gzip = is_plain and self._begins_gzip(scope, send)
        if is_gzip:
            start = {**start, "headers": [*start["headers"], CONTENT_ENCODING]}
        head: Message | None = start
        if is_plain and isinstance(subscription, Subscription):
            hub = cast(StreamingHub, subscription._hub)
            attempt = self._attempt(hub, subscription, scope, receive)
            if isinstance(attempt, Attempt):
                try:
                    fd = await take_for(subscription, attempt, receive, send, start, gzip=is_gzip)
                    hub._stays(attempt.stay)
                    if is_gzip:
                        subscription._compress(owes_header=False)
                    if fd is not None:
                        handed = self._hand_over(subscription, fd, attempt.server, receive, is_gzip)
                        await end_of_response(send)
                        await close_dependencies(scope)
                        return handed
                except BaseException:
                    if subscription.path == "loop":
                        subscription._end(EndKind.CLIENT)
                    raise
                head = None
            else:
                hub._stays(attempt)
        elif isinstance(subscription, Subscription):
            cast(StreamingHub, subscription._hub)._stays(Stay.CONTENT)
        elif self.handoff:
            if await self._detach(scope, receive, send, start):
                return True
            head = None
        if self._needs_no_dependencies():
            await close_dependencies(scope)
        await EventStream(self, receive, send).run(scope, head)
        return False

    def _begins_gzip(self, scope: Scope, send: Send) -> bool:
        """Whether the body is compressed: that is possible, and nothing was taken from the Subscription."""
        if not self._compress or not can_compress(scope, send):
            return False
        return cast(Subscription, self.body_iterator)._compress(owes_header=True)

    async def _detach(self, scope: Scope, receive: Receive, send: Send, start: Message) -> bool:
        """Let the request end while the content streams on. False when the stream stays with its server."""
        attempt = self._transport_attempt(scope, receive)
        if not isinstance(attempt, Attempt):
            log_once(attempt)
            await send(start)
            return False
        connection = await take_socket(attempt, send, start)
        if connection is None:
            log_once(attempt.stay)
            return False
        try:
            server = attempt.server
            connection.begin(partial(DetachedStream(self, connection, server).open, server))
        except BaseException:
            connection.abort()
            raise
        await end_of_response(send)
        await close_dependencies(scope)
        return True

    def _needs_no_dependencies(self) -> bool:
        """Whether dependencies close when the stream begins, wherever it goes on."""
        is_let_go = isinstance(self.body_iterator, Subscription) or bool(self.handoff)
        return is_let_go and not self.hold_dependencies

    def _transport_attempt(self, scope: Scope, receive: Receive) -> Attempt[OwnedConnection] | Stay:
        if is_refused_by_environment():
            return Stay.ENVIRONMENT
        if self.hold_dependencies:
            return Stay.DEPENDENCIES
        if self.status_code != 200:
            return Stay.STATUS
        return make_transport_attempt(scope, receive)

    def _overrides_hooks(self) -> bool:
        """Whether a subclass, or a patch of this class, has its own method for a part of the stream."""
        cls = type(self)
        for name, hook in _HOOKS:  # noqa: SIM110 - asked for each response, and `any` costs more
            if getattr(cls, name, None) is not hook:
                return True
        return False

    def _attempt(
        self, hub: StreamingHub, subscription: Subscription, scope: Scope, receive: Receive
    ) -> Attempt[int] | Stay:
        """An attempt to take the socket, or why the stream stays with its server."""
        if self.hold_dependencies:
            return Stay.DEPENDENCIES
        attempt = hub._attempt(scope, receive, self.handoff)
        if isinstance(attempt, Attempt):
            try:
                if not subscription._can_hand_over():
                    return Stay.CONTENT
            except (OSError, HubClosed):  # no thread or descriptor for a reactor
                return Stay.DESCRIPTORS
        return attempt

    def _is_plain(self) -> bool:
        """Whether only a Subscription's bytes have to be sent: no option asks for anything else."""
        return (
            self.status_code == 200
            and not (self._pings or self._chose_sep or self._shutdown_grace_period)
            and self.ping_message_factory is None
            and self.data_sender_callable is None
            and self.send_timeout is None
            and self.client_close_handler_callable is None
            and self._shutdown_event is None
            and self._cleanup_timeout == self.DEFAULT_CLEANUP_TIMEOUT
            and switch.drains
            and not switch.ends_all
        )

    def _hand_over(
        self, subscription: Subscription, fd: int, server: RunningServer, receive: Receive, is_gzip: bool
    ) -> bool:
        """Transfer the subscription, with the client's socket, to a reactor.

        False when the stream cannot go on there; its body then ends, and the client comes back.
        """
        hub = cast(StreamingHub, subscription._hub)
        on_end = hub._on_end(self.background)
        try:
            handed = hub._transfer_to_reactor(fd, server, subscription, on_end)
        except BaseException:
            close_descriptor(fd)
            raise
        if not handed:  # it was iterated since the check, or its hub has ended
            end_on_socket(fd, gzip_rest(b"") if is_gzip else b"")
            return False
        self.active = False
        hub._warn_of_workers(receive)
        return True

    def _headers_for(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        if scope.get("http_version", "1.1")[:1] not in ("2", "3"):
            return self.raw_headers
        # Connection is a header of HTTP/1, and makes messages of later versions malformed (RFC 9113, 8.2.2).
        return [header for header in self.raw_headers if header[0] != b"connection"]
