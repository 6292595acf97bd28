"""The response that streams a hub's topics to one client, through any ASGI server."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, Generator, Mapping
from functools import partial
from typing import Any, Unpack

from starlette.datastructures import MutableHeaders
from starlette.types import Receive, Scope, Send

from sse_hub._arguments import check_callback, check_flag, check_flag_if_given
from sse_hub._core import Pump, Subscription
from sse_hub._core import _close as close_descriptor
from sse_hub._ends import EndKind
from sse_hub._handoff.attempt import Attempt
from sse_hub._handoff.gzip_body import gzip_rest
from sse_hub._handoff.taking import COME_BACK_LATER, end_of_response, end_on_socket, take_socket
from sse_hub._responses.beginning import take_for
from sse_hub._responses.carried_stream import CarriedStream
from sse_hub._responses.compression import CONTENT_ENCODING, can_compress, check_compress
from sse_hub._responses.dependencies import close_dependencies, has_dependencies
from sse_hub._responses.disconnect import DisconnectWatch
from sse_hub._responses.guarded_response import TURNED_AWAY, GuardedResponse, serves_as_response_class
from sse_hub._responses.last_event_id import last_event_id
from sse_hub._responses.options import StreamOptions, Topics, check_last_event_id, check_names, make_request
from sse_hub._responses.sending import abort_before_end
from sse_hub._responses.streaming_hub import StreamingHub
from sse_hub._servers import Buffers, find_buffers, find_closing, find_departure
from sse_hub._servers.stay import Stay
from sse_hub._servers.uvicorn_writing import connection_of
from sse_hub._stopping.registry import RunningServer
from sse_hub._stopping.serving import Serving
from sse_hub.event import _encoder
from sse_hub.exceptions import GapError, HubClosed

__all__ = ["HubResponse"]

_NO_CONTENT = (204, 205, 304)  # RFC 9110, 15.3.5, 15.3.6 and 15.4.5
# Seconds in which a broker must resolve where a client starts, if the status depends on that.
_RESOLVING = 10.0


class HubResponse(GuardedResponse):
    """What ``Hub.response`` returns. Nothing is subscribed until it is sent."""

    _made_by = "hub.response(topics)"
    # Whether the subscription comes before the head, which middleware may hold back for a while.
    _subscribes_first = False

    @serves_as_response_class
    def __init__(self, hub: StreamingHub, topics: Topics, **options: Unpack[StreamOptions]) -> None:
        check_names("Hub.response", options, StreamOptions.__optional_keys__)
        initial, background = options.get("initial"), options.get("background")
        if initial is not None:
            check_callback("initial", initial, "subscription")
        if background is not None:
            check_callback("background", background)
        self.hub = hub
        self.initial = initial
        self.last_event_id = check_last_event_id(options.get("last_event_id"))
        self.info = options.get("info")
        self.handoff = check_flag_if_given("handoff", options.get("handoff"))
        self.hold_dependencies = check_flag("hold_dependencies", options.get("hold_dependencies", False))
        self._control = options.get("control", True)
        self._request = self._asked = make_request(topics, options, initial=initial is not None)
        self.status_code = _check_status(options.get("status_code", 200))
        self.background = background
        headers = options.get("headers") or {}
        if not isinstance(headers, Mapping):
            raise TypeError(f"headers is a mapping of names to values, not {type(headers).__name__}")
        merged = MutableHeaders(headers=dict(headers))
        merged.setdefault("Cache-Control", "no-store")
        merged["X-Accel-Buffering"] = "no"
        # A body whose coding the application names is not coded again.
        compress = check_compress(options.get("compress"), hub._compress)
        self._compress = compress and "Content-Encoding" not in merged
        self._is_gzip = False
        if self._compress:
            merged.add_vary_header("Accept-Encoding")
        self.init_headers(merged)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> bool:
        self._is_gzip = self._compress and can_compress(scope, send)
        headers = [*self.raw_headers, CONTENT_ENCODING] if self._is_gzip else self.raw_headers
        start = {"type": "http.response.start", "status": self.status_code, "headers": headers}
        if scope.get("method") == "HEAD":
            await send(start)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return False
        if self.hub._is_over(self._request, self.last_event_id or last_event_id(scope)):
            await self._say_over(send)
            return False
        return await self._stream(scope, receive, send, start)

    async def _say_over(self, send: Send) -> None:
        """Answer a client for which nothing more will come."""
        await self._refuse(send, 204)

    def _attempt(self, scope: Scope, receive: Receive, *, is_subscribed: bool = False) -> Attempt[int] | Stay:
        """An attempt to take the socket, or why the stream stays with its server."""
        if self.hold_dependencies:
            return Stay.DEPENDENCIES
        if self.status_code != 200:
            return Stay.STATUS
        if not is_subscribed and self.hub._full_status != 200 and self.hub._is_full(self._request):
            return Stay.FULL  # It will be refused, with a status that cannot be sent after the hand-off.
        attempt = self.hub._attempt(scope, receive, self.handoff)
        if isinstance(attempt, Attempt):
            try:
                self.hub._prepare_hand_over()
            except (OSError, HubClosed):  # no thread or descriptor for a reactor: the others are served
                return Stay.DESCRIPTORS
        return attempt

    async def _stream(self, scope: Scope, receive: Receive, send: Send, start: dict[str, Any]) -> bool:
        """Send the stream; True when it was handed off and goes on after this request."""
        self.hub._warn_of_workers(receive)
        if self._subscribes_first or not self._control:
            return await self._stream_subscribed(scope, receive, send, start)
        attempt = self._attempt(scope, receive)
        if not isinstance(attempt, Attempt):
            self.hub._stays(attempt)
            await self._through_server(scope, receive, send, start)
            return False
        fd = await take_socket(attempt, send, start, gzip=self._is_gzip)
        self.hub._stays(attempt.stay)
        if fd is None:
            await self._through_server(scope, receive, send, None)
            return False
        handed = await self._hand_over(scope, fd, attempt.server)
        await end_of_response(send)
        # FastAPI would close them right afterwards, and raise their errors although the stream goes on.
        await close_dependencies(scope)
        return handed

    async def _stream_subscribed(
        self, scope: Scope, receive: Receive, send: Send, start: dict[str, Any]
    ) -> bool:
        """The same if the subscription comes before the head."""
        try:
            last = self.last_event_id or last_event_id(scope)
            subscription = self.hub._open(self._request, last, self.info)
        except TURNED_AWAY as error:
            self.hub._turns_away(error)
            await self._turn_away(send, self._status_for(error))
            return False
        if not self._control and (status := await self._status_of_gap(subscription)) is not None:
            await self._refuse(send, status)
            return False
        attempt = self._attempt(scope, receive, is_subscribed=True)
        if isinstance(attempt, Attempt) and not subscription._can_hand_over():
            attempt = Stay.DESCRIPTORS
        if not isinstance(attempt, Attempt):
            self.hub._stays(attempt)
            await self._carry(subscription, scope, receive, send, start)
            return False
        try:
            fd = await take_for(subscription, attempt, receive, send, start, gzip=self._is_gzip)
        except BaseException:
            subscription._end(EndKind.CLIENT)
            raise
        self.hub._stays(attempt.stay)
        if fd is None:
            await self._carry(subscription, scope, receive, send, None)
            return False
        handed = await self._transfer(subscription, fd, attempt.server)
        await end_of_response(send)
        await close_dependencies(scope)
        return handed

    async def _status_of_gap(self, subscription: Subscription) -> int | None:
        """The status for a client that misses events, if only the status can report that; else None."""
        try:
            async with asyncio.timeout(_RESOLVING):
                await subscription._resolved()
        except TimeoutError:  # the broker does not say where the client starts
            subscription._end(EndKind.CLOSED)
            return 503
        except BaseException:
            subscription._end(EndKind.CLIENT)
            raise
        if subscription.recovered is False:
            subscription._end(EndKind.GAP)
            return 409
        return None

    async def _transfer(self, subscription: Subscription, fd: int, server: RunningServer) -> bool:
        """Transfer a subscription to a reactor. False when it has ended, and the body with it."""
        on_end = self.hub._on_end(self.background)
        if self._is_gzip:
            subscription._compress(owes_header=False)
        try:
            handed = subscription._hand_over(fd, server.group, on_end)
        except BaseException:
            close_descriptor(fd)
            raise
        if not handed:
            end_on_socket(fd, self._whole(b""))
            return False
        self.hub._handed(server, server.group)
        if self.initial is not None and subscription.recovered is not True:
            await self._give_initial(subscription)
        return True

    async def _hand_over(self, scope: Scope, fd: int, server: RunningServer) -> bool:
        """Pass the socket to a reactor: nothing of this request remains except what the application passed.

        False when the hub has no room; the client is then told when to come back.
        """
        on_end = self.hub._on_end(self.background)
        try:
            last = self.last_event_id or last_event_id(scope)
            request = self._request._compressed() if self._is_gzip else self._request
            subscription = self.hub._open_at_reactor(fd, server, request, last, self.info, on_end)
        except BaseException as error:
            if not isinstance(error, TURNED_AWAY):
                close_descriptor(fd)
                raise
            self.hub._turns_away(error)
            end_on_socket(fd, self._whole(COME_BACK_LATER))
            return False
        if self.initial is not None and subscription.recovered is not True:
            await self._give_initial(subscription)
        return True

    async def _through_server(
        self, scope: Scope, receive: Receive, send: Send, start: dict[str, Any] | None
    ) -> None:
        try:
            last = self.last_event_id or last_event_id(scope)
            subscription = self.hub._open(self._request, last, self.info)
        except TURNED_AWAY as error:
            self.hub._turns_away(error)
            if start is not None:
                await self._turn_away(send, self._status_for(error))
            else:
                await send(
                    {"type": "http.response.body", "body": self._whole(COME_BACK_LATER), "more_body": False}
                )
            return
        await self._carry(subscription, scope, receive, send, start)

    async def _carry(
        self,
        subscription: Subscription,
        scope: Scope,
        receive: Receive,
        send: Send,
        start: dict[str, Any] | None,
    ) -> None:
        """Send a subscription's stream through the server. ``start`` is the head, or None if it was sent."""
        if self._is_gzip:
            subscription._compress(owes_header=start is not None)
        # A task of its own for the body: the request's task holds the frames of every middleware and of the
        # routing under the response, and resuming it for each event would walk through all of them.
        begun = self._begins(scope)
        buffers = find_buffers(scope, receive, send)
        body = asyncio.create_task(self._body(subscription, receive, send, start, begun, buffers))
        stream = CarriedStream(self.hub, subscription, receive, buffers, body)
        watch = DisconnectWatch(receive, stream.client_left)
        try:
            with Serving(scope, receive, stream):
                watch.start()
                if begun is not None:
                    await _close_dependencies_once(begun, scope, body)
                await body
            if (ended := subscription.closed) is not None and ended.kind is EndKind.STALLED:
                await abort_before_end(receive)
        except GapError:
            # Do not send the end of the body: the client would take the body for complete.
            await abort_before_end(receive)
        except asyncio.CancelledError:
            if not stream.was_aborted():
                raise
        finally:
            watch.close()
            stream.over()
            subscription._end(EndKind.CLIENT)

    def _whole(self, body: bytes) -> bytes:
        """A body that is sent in place of the stream's; a gzip header was sent already."""
        return gzip_rest(body) if self._is_gzip else body

    def _begins(self, scope: Scope) -> asyncio.Future[None] | None:
        """A future that is done once the stream no longer needs the endpoint's dependencies.

        None if there are none.
        """
        if self.hold_dependencies or not has_dependencies(scope):
            return None
        return asyncio.get_running_loop().create_future()

    async def _body(
        self,
        subscription: Subscription,
        receive: Receive,
        send: Send,
        start: dict[str, Any] | None,
        begun: asyncio.Future[None] | None,
        buffers: Buffers | None,
    ) -> None:
        if start is not None:
            await send(start)
        is_closing, connection = find_closing(receive), connection_of(receive, send)
        if buffers is None or not buffers.is_hidden:
            buffers = None  # the transport has a write wait while it holds one
        elif connection is not None:
            connection = buffers.bound(connection)
        snapshot: asyncio.Task[None] | None = None
        owes_initial = self.initial is not None and subscription.recovered is not True
        has_left = find_departure(send)
        if begun is not None and not owes_initial:
            _set(begun)
        try:
            async for chunk in subscription:
                if is_closing():
                    await asyncio.sleep(0)  # a long replay never waits: let the server notice
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                if buffers is not None:
                    await buffers.drained()
                if has_left is not None and has_left():
                    subscription._end(EndKind.CLIENT)
                if owes_initial:
                    # After the opening, and beside the body: heartbeats go out however long it takes.
                    owes_initial = False
                    snapshot = asyncio.create_task(self._give_initial(subscription))
                    if begun is not None:
                        snapshot.add_done_callback(partial(_set, begun))
                if connection is not None:
                    await Pump(subscription, _encoder, "\n", *connection)
                    break
        finally:
            if snapshot is not None:
                snapshot.cancel()
        if snapshot is not None and snapshot.done():
            snapshot.result()  # raises what went wrong
        if (ended := subscription.closed) is None or ended.kind not in (EndKind.CLIENT, EndKind.STALLED):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _give_initial(self, subscription: Subscription) -> None:
        # With a broker, the hub may have to ask first whether the client resumes.
        await subscription._resolved()
        if subscription.recovered is True or subscription.closed is not None:
            return
        try:
            subscription._initial(await self._initial_events(subscription))
        except BaseException:
            # The head is sent: the stream can only end. The browser tries again.
            subscription._end(EndKind.ERROR)
            raise

    async def _initial_events(self, subscription: Subscription) -> list[Any]:
        assert self.initial is not None
        events = self.initial(subscription)
        if inspect.isawaitable(events):
            events = await events
        if events is None:
            return []
        if isinstance(events, AsyncIterable):
            return [event async for event in events]
        if isinstance(events, list | tuple | Generator):
            return list(events)
        return [events]


def _check_status(code: int) -> int:
    if not isinstance(code, int) or isinstance(code, bool):
        raise TypeError(f"status_code is an int, not {type(code).__name__}")
    if not 200 <= code <= 599 or code in _NO_CONTENT:
        raise ValueError(f"status_code must be from 200 to 599 and one that has a body, not {code}")
    return code


def _set(begun: asyncio.Future[None], _: object = None) -> None:
    if not begun.done():
        begun.set_result(None)


async def _close_dependencies_once(
    begun: asyncio.Future[None], scope: Scope, body: asyncio.Task[None]
) -> None:
    """Close the endpoint's dependencies, in the request's own task, as soon as the stream has begun."""
    body.add_done_callback(partial(_set, begun))
    try:
        await begun
        await close_dependencies(scope)
    except asyncio.CancelledError:
        body.cancel()
        await asyncio.wait([body])
        raise
