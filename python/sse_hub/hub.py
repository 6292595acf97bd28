"""The hub: publish once; every connected browser receives it."""

# Longer than other files because of the docstrings of `Hub`, which are the reference; `Hub.__new__` is longer
# than other functions because it names each option twice.
from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, TypeVar, Unpack, overload

from starlette.requests import Request
from starlette.types import ASGIApp

from sse_hub._arguments import check_callback, check_flag, check_flag_if_given, check_seconds
from sse_hub._core import Publication, Subscription
from sse_hub._handoff.taking import is_refused_by_environment
from sse_hub._metrics.traceparent import reader_of_spans
from sse_hub._responses.authorizing import Authorize, Authorizer
from sse_hub._responses.channel import Channel, named_events
from sse_hub._responses.channels import Channels
from sse_hub._responses.client_script import ClientScript
from sse_hub._responses.compression import check_compress
from sse_hub._responses.endpoint import Endpoint, PerRequest
from sse_hub._responses.hub_response import HubResponse
from sse_hub._responses.options import (
    FollowOptions,
    Initial,
    Overflow,
    Replay,
    StreamOptions,
    SubscribeOptions,
    Topics,
    check_last_event_id,
    check_names,
    make_request,
)
from sse_hub._responses.streaming_hub import OnConnect, OnDisconnect
from sse_hub._runs.registry import Runs
from sse_hub._runs.running_hub import RunningHub
from sse_hub._stopping.serving import on_asyncio
from sse_hub.brokers import Broker, make_broker

__all__ = [
    "Authorize",
    "Channel",
    "Channels",
    "FollowOptions",
    "Hub",
    "Initial",
    "Overflow",
    "PerRequest",
    "Presence",
    "Publication",
    "Replay",
    "StreamOptions",
    "SubscribeOptions",
    "Subscription",
    "Topics",
]

logger = logging.getLogger("sse_hub")

FullStatus: TypeAlias = Literal[200, 503]
"""What a newcomer gets at ``max_subscribers``; 503 is 429 at ``max_per_user``."""

_Authorize = TypeVar("_Authorize", bound=Authorize)
_OnConnect = TypeVar("_OnConnect", bound=OnConnect)
_OnDisconnect = TypeVar("_OnDisconnect", bound=OnDisconnect)
_Event = TypeVar("_Event")

_DEF_OR_ASYNC = "a function, def or async"
_MIB = 1024 * 1024
_POLL = 0.01  # seconds between two counts of undelivered events while a hub closes
_BROKER_ENDS = 2.5  # seconds that a broker may take at most to remove this process and write its last notes


@dataclass(frozen=True, slots=True)
class Presence:
    """The subscribers of a topic, in all processes of a hub."""

    count: int
    """How many subscribers there are."""

    ids: tuple[str, ...]
    """Their ids, sorted: what ``send`` and ``disconnect`` take."""


class Hub(RunningHub):
    """Fans events out to every subscriber, in one order, and replays what a client missed.

    Create a hub once, usually at module level, and use it from anywhere: every method may be called from any
    thread. Nothing starts until the first subscriber.

    Promises: one order for all subscribers; at most once to a connected client; at least once across
    reconnects within the retained history; otherwise an explicit ``stream-reset``; never a silent gap; never
    a duplicate of an event whose id the client reported.

    Args:
        broker: None for a hub within this process. ``"file:events"`` or a ``FileBroker`` joins the hubs of
            the same ``name`` in all processes of a host into one hub, through files in a directory: ids and
            history survive restarts. ``"redis://localhost:6379"`` or a ``RedisBroker`` does that across
            several hosts, through a stream in Redis. ``""``, which an environment variable may be set to, is
            None.
        history: events each topic keeps for replay; 0 keeps none. With a broker: roughly how many events the
            stream keeps for all topics together; at least 1.
        history_bytes: bytes each topic keeps.
        history_age: seconds each topic keeps an event; None for as long as there is room. With a broker, the
            same for the stream.
        history_total_bytes: bytes all topics keep together; the oldest events of all are evicted first.
        heartbeat: seconds of silence after which a client gets a heartbeat, so that proxies do not close the
            connection; None for none. Each client's own interval is up to a quarter shorter, to spread them.
        reconnect: (least, most) seconds a browser waits before it reconnects; each client gets its own value,
            so that a restart does not bring them all back at once.
        capacity: events that may wait behind a client's unfinished write.
        capacity_bytes: the same in bytes.
        overflow: what happens beyond that: ``"disconnect"`` (the browser comes back with its last id and
            loses nothing), ``"drop_oldest"`` or ``"drop_newest"`` (followed by ``stream-lagged``).
        rate: how often a client is written to at most, in writes a second, from 0.001 to 100; None for no
            limit. The first event goes out at once, and what comes within 1 / ``rate`` seconds of a write
            goes out together after that time; with ``key=`` of ``publish``, only the newest value of each
            key. Not held: what is sent to one client, heartbeats, and the end of a stream. What fills
            ``capacity`` or ``capacity_bytes`` goes out early. A run's watchers get it only with a ``rate`` of
            their own.
        stall_timeout: longest time in seconds that a client may accept nothing while data waits for it.
        backlog_bytes: how many bytes publishers may run ahead of delivery before ``HubFull``.
        max_event_bytes: largest event, in bytes on the wire.
        max_subscribers: most subscribers; None for no limit.
        max_per_user: most streams of one ``user``; None for no limit. With a broker, in all processes, also
            when requests of one user reach several of them in the same moment. Over Redis, streams of a
            process that died count for up to 15 seconds. While the broker does not answer, each process
            counts its own; ``subscribe``, which cannot wait, always does.
        max_topics: most topics of one stream; None for no limit. A response with more is a 400; ``subscribe``
            and ``join`` raise ``TooManyTopics``.
        full_status: the status for a newcomer beyond ``max_subscribers`` or ``max_per_user``. 200 (default):
            an empty stream that tells the browser to come back in 30 seconds. 503, with ``Retry-After``, and
            429 for a user who has too many: for load balancers and clients that are programs; a browser never
            comes back after it.
        compress: whether the bodies of streams are compressed (gzip) for clients that accept it; clients of
            the same topics share what is compressed once. A response's own ``compress`` overrides it; runs
            are compressed only by that. docs/compression.md says when it pays, and that secrets do not
            belong beside text that strangers write.
        grace: seconds that streams get to end when the hub or the server closes.
        threads: number of threads that own handed-off sockets; they start at the first hand-off.
        handoff: whether streams leave the server for these threads. None (default): if possible, except from
            a uvicorn with ``--limit-concurrency``, which would no longer count them. True: from that one too.
            False: never. A response's own ``handoff`` overrides it. ``SSE_HUB_HANDOFF=0`` in the environment,
            read when the hub is created, overrides both.
        trace: whether what is published and sent carries the trace that it belongs to: the W3C
            ``traceparent`` of OpenTelemetry's active span, as a field of that name, which browsers ignore.
            It travels through brokers and is replayed; docs/metrics.md shows who reads it. Without an active
            span an event has none. Events of a run carry the span that was active when it began, unless its
            async generator makes another one active.
        name: the hub's name in the log and, with a broker, in the broker: hubs of different names share
            nothing.

    Raises:
        ValueError: an option is out of its range.
        ImportError: ``trace`` is true, and ``opentelemetry-api`` is not installed.
    """

    # Longer than other functions: each option is a line of the signature and of the call below it.
    def __new__(
        cls,
        broker: str | Broker | None = None,
        *,
        history: int = 1024,
        history_bytes: int = 8 * _MIB,
        history_age: float | None = None,
        history_total_bytes: int = 256 * _MIB,
        heartbeat: float | None = 15.0,
        reconnect: Sequence[float] = (1.0, 5.0),
        capacity: int = 256,
        capacity_bytes: int = 1 * _MIB,
        overflow: Overflow = "disconnect",
        rate: float | None = None,
        stall_timeout: float = 30.0,
        backlog_bytes: int = 64 * _MIB,
        max_event_bytes: int = 1 * _MIB,
        max_subscribers: int | None = None,
        max_per_user: int | None = None,
        max_topics: int | None = None,
        full_status: FullStatus = 200,
        compress: bool = False,
        grace: float = 1.0,
        threads: int = 1,
        handoff: bool | None = None,
        trace: bool = False,
        name: str = "default",
        _manual_clock: bool = False,
    ) -> Self:
        broker = make_broker(broker)
        if broker is not None and isinstance(history, int) and history < 1:
            raise ValueError(f"history must be at least 1 with a broker, not {history}")
        _check_grace(grace)
        compress = check_compress(compress, False)
        if not isinstance(full_status, int):
            raise TypeError(f"full_status is 200 or 503, not {type(full_status).__name__}")
        if full_status not in (200, 503):
            raise ValueError(f"full_status must be 200 or 503, not {full_status!r}")
        check_flag("trace", trace)
        check_flag_if_given("handoff", handoff)
        self = super().__new__(
            cls,
            history=history,
            history_bytes=history_bytes,
            history_age=history_age,
            history_total_bytes=history_total_bytes,
            heartbeat=heartbeat,
            reconnect=reconnect,
            capacity=capacity,
            capacity_bytes=capacity_bytes,
            overflow=overflow,
            stall_timeout=stall_timeout,
            backlog_bytes=backlog_bytes,
            max_event_bytes=max_event_bytes,
            max_subscribers=max_subscribers,
            max_per_user=max_per_user,
            max_topics=max_topics,
            threads=threads,
            rate=rate,
            broker=broker,
            name=name,
            manual_clock=_manual_clock,
            traceparent=reader_of_spans() if trace else None,
        )
        self.name = name
        self.broker = broker
        self.grace = float(grace)
        self._warned_of_workers = False
        self._compress = compress
        self._handoff = handoff
        self._refused_by_environment = is_refused_by_environment()
        self._stayed = Counter()
        self._hand_offs = Counter()
        self._full_status = full_status
        self._max_subscribers = max_subscribers
        self._max_per_user = max_per_user
        self._max_topics = max_topics
        self._stall_timeout = float(stall_timeout)
        self._retention = (history, history_bytes, history_age)
        self._authorizer = None
        self._has_manual_clock = _manual_clock
        self._on_connect = []
        self._on_disconnect = []
        self._callbacks = set()
        self._runs = Runs()
        return self

    _retention: tuple[int, int, float | None]
    _has_manual_clock: bool

    def topic(
        self,
        pattern: str,
        *,
        history: int | None = None,
        history_bytes: int | None = None,
        history_age: float | None = None,
    ) -> None:
        """Set what one topic keeps, or a family of topics such as ``"chat:*"``.

        Limits that are not given stay the hub's. The newest rule that matches a topic applies; a plain name
        overrides any pattern. What is already kept is trimmed to the new limits.

        With a broker, the stream keeps all topics together, by the hub's own ``history`` and
        ``history_age``; a rule limits what a newcomer's ``replay`` of the topic contains. A warning is logged
        if the stream may keep less than the rule asks for. A client that resumes gets whatever the stream
        still has.

        Raises:
            ValueError: a limit is out of its range, or the pattern is not a topic's name with ``*`` in it.
        """
        count, size, age = self._retention
        self._set_retention(
            pattern,
            count if history is None else history,
            size if history_bytes is None else history_bytes,
            age if history_age is None else history_age,
        )
        if self.broker is None:
            return
        if history is not None and history > count:
            self._warn_of_less(pattern, "history", history, count)
        if history_age is not None and age is not None and history_age > age:
            self._warn_of_less(pattern, "history_age", history_age, age)

    def _warn_of_less(self, pattern: str, option: str, wanted: float, kept: float) -> None:
        logger.warning(
            "hub %r: topic %r has %s=%s, but the broker's stream keeps %s, of all topics together:"
            " give Hub(%s=…) at least as much",
            self.name,
            pattern,
            option,
            wanted,
            kept,
            option,
        )

    def subscribe(self, topics: Topics = (), **options: Unpack[SubscribeOptions]) -> Subscription:
        """Register a subscriber, and return its stream: an async iterator of bytes ready to be written.

        ``StreamingResponse(hub.subscribe("prices"), media_type="text/event-stream")`` works; ``response``
        does more. Call it on an event loop, or in a worker thread of one (a ``def`` endpoint). The options
        are those of ``SubscribeOptions``.

        Args:
            topics: the topics whose events the subscriber gets; may be empty, as ``broadcast`` and ``send``
                still reach it.

        Raises:
            HubFull: the hub has ``max_subscribers``, or (``UserFull``) the user ``max_per_user``.
            TooManyTopics: there are more than ``max_topics``.
            HubClosed: the hub is closing.
            NotAuthorized: ``expires`` is in the past, or ``authorize`` allows none of the topics.
            OSError: the hub's first subscriber on this event loop, and the process has no descriptor left.
            RuntimeError: there is no event loop, or the function of ``authorize`` is async.
            ValueError: a topic's name or an option breaks a rule.
        """
        check_names("Hub.subscribe", options, SubscribeOptions.__optional_keys__)
        last_event_id = check_last_event_id(options.get("last_event_id")) or None
        request = make_request(topics, options)
        if self._authorizer is not None:
            request = self._authorizer.within_at_once(request)
        return self._open(request, last_event_id, options.get("info"))

    def response(self, topics: Topics = (), **options: Unpack[StreamOptions]) -> HubResponse:
        """The response of an endpoint that streams ``topics`` to its client.

        Nothing is subscribed until the response is sent. The client resumes from its ``Last-Event-ID``
        header, or from ``?last_event_id=`` or ``?lastEventId=``, unless an id is given here. The options are
        those of ``StreamOptions``.

        Args:
            topics: as in ``subscribe``.

        Raises:
            ValueError: a topic's name or an option breaks a rule.
        """
        return HubResponse(self, topics, **options)

    def endpoint(
        self,
        topics: Topics | Callable[[Request], Topics | Awaitable[Topics]],
        *,
        methods: Iterable[str] = ("GET",),
        per_request: PerRequest | None = None,
        **options: Unpack[StreamOptions],
    ) -> ASGIApp:
        """``response`` as an ASGI app, for a Starlette ``Route``. The options are those of ``StreamOptions``.

        Args:
            topics: as in ``response``; or a function, def or async, that takes the request and returns them.
            methods: the request methods that get a stream; default GET. HEAD comes with GET. Other requests
                are answered with 405.
            per_request: a function, def or async, that takes the request and returns a dict of more options,
                such as its ``user``, and when the user's token ``expires``; None for none.
        """
        if isinstance(topics, Iterator):
            topics = tuple(topics)  # An iterator can be read only once, and there will be many requests.
        # Raise for wrong options now, not at the first request.
        self.response(() if callable(topics) else topics, **options)
        if per_request is not None:
            check_callback("endpoint(per_request=…)", per_request, "request", kind=_DEF_OR_ASYNC)
        if callable(topics):
            check_callback("endpoint", topics, "request")

        def respond(wanted: Topics, more: StreamOptions) -> HubResponse:
            merged: StreamOptions = {**options, **more}
            return self.response(wanted, **merged)

        return Endpoint(respond, topics, per_request, methods)

    def channel(
        self, topic: str, events: Mapping[str, type[_Event]] | None = None, /, **named: type[_Event]
    ) -> Channel[_Event]:
        """A topic whose events have types: ``hub.channel("prices", tick=Tick, halt=Halt)``.

        ``publish`` of the channel checks each value and names the event by its type; ``responses`` and
        ``response_class`` describe the stream in OpenAPI. Subscribing to the topic in any other way, and
        publishing to it unchecked, still works. Needs pydantic.

        Args:
            topic: the topic's name.
            events: the types by the events' names, for names that are no identifiers.
            named: the same by keyword: pydantic models, dataclasses, TypedDicts, or types such as ``int`` and
                ``list[str]``.

        Raises:
            TypeError: no event was given, or an argument is of the wrong type.
            ValueError: the topic's or an event's name breaks a rule.
            ImportError: pydantic is not installed.
        """
        return Channel(self, topic, named_events(events, named))

    def channels(
        self, pattern: str, events: Mapping[str, type[_Event]] | None = None, /, **named: type[_Event]
    ) -> Channels[_Event]:
        """A family of topics with the same types: ``rooms = hub.channels("room:{id}", message=Message)``.

        ``rooms(id="7")`` is the channel of the topic ``"room:7"``; it costs no more than its name.

        Args:
            pattern: the topics' name, with a ``{name}`` for each part that differs.
            events: as in ``channel``.
            named: as in ``channel``.

        Raises:
            ValueError: the pattern or an event's name breaks a rule.

        The other errors are those of ``channel``.
        """
        return Channels(self, pattern, named_events(events, named))

    def client_js(self) -> ClientScript:
        """The JavaScript module with ``connect``, for an endpoint to return or a ``Route`` to mount.

        Browsers ask whether their copy is current (``ETag``), and keep it for a year if the URL names its
        version: ``f"/sse-hub.js?v={hub.client_js().version}"``. The module is the same for all hubs.
        """
        return ClientScript()

    @overload
    def authorize(self, function: _Authorize, /) -> _Authorize: ...

    @overload
    def authorize(
        self, function: None = None, /, *, every: float = 30.0
    ) -> Callable[[_Authorize], _Authorize]: ...

    def authorize(self, function: Any = None, /, *, every: float = 30.0) -> Any:
        """Ask ``function(user, topics)``, def or async, which of the topics a user may listen to::

            @hub.authorize(every=30)
            async def allowed(user: str | None, topics: frozenset[str]) -> Iterable[str]:
                return topics & await topics_of(user)

        It is called with the ``user`` of streams and a set of topics, and returns those that are allowed;
        others are ignored. It is asked

        - before a stream begins. The stream gets the topics that are allowed; without any the answer is 403.
          An ``HTTPException`` that the function raises is the answer: 204 stops an ``EventSource`` as well;
        - at ``join`` and ``ajoin``, which raise ``NotAuthorized`` if a topic is not allowed;
        - every ``every`` seconds (up to a quarter sooner), once for all streams of a user and all their
          topics: a stream leaves those that are no longer allowed. A stream that has none left ends with the
          reason ``revoked``, and the next request of its client is asked about again.

        It fails closed. If the function raises, or an async one takes longer than 10 seconds, a newcomer is
        told to come back later (as by ``full_status``), and ``join`` raises. Open streams are asked about
        again four times as often; two times ``every`` after the last answer they end. With an
        ``HTTPException`` below 500 nothing is allowed.

        A stream without topics is not asked about; ``broadcast`` and ``send`` need no permission. Streams
        without a ``user`` are asked about together, with None. A plain function runs on the event loop and
        must not block it; an async one cannot be asked by ``Hub.subscribe`` and ``join``, which raise
        RuntimeError (use ``response`` and ``ajoin``). Register the function before the first stream.

        Args:
            every: seconds between two questions about a user with open streams.

        Raises:
            ValueError: ``every`` is not a positive number.
            RuntimeError: the hub has such a function already.
        """
        check_seconds("every", every)
        if not 0 < every < float("inf"):
            raise ValueError(f"every must be a number of seconds more than 0, not {every}")

        def register(function: _Authorize) -> _Authorize:
            check_callback("authorize", function, "user", "topics", kind=_DEF_OR_ASYNC)
            if self._authorizer is not None:
                raise RuntimeError(f"hub {self.name!r} has an authorize function already")
            self._authorizer = Authorizer(
                self, self.name, function, float(every), manual=self._has_manual_clock
            )
            return function

        return register if function is None else register(function)

    def on_connect(self, callback: _OnConnect) -> _OnConnect:
        """Call ``callback(subscription)`` for every new subscriber, on its event loop; def or async."""
        self._on_connect.append(check_callback("on_connect", callback, "subscription", kind=_DEF_OR_ASYNC))
        return callback

    def on_disconnect(self, callback: _OnDisconnect) -> _OnDisconnect:
        """Call ``callback(subscription, reason)`` for every subscriber that is gone; def or async.

        It runs on the subscriber's event loop, after the fact. Reasons are ``client``, ``closed``,
        ``overflow``, ``stalled``, ``max_age``, ``expired``, ``revoked`` (by ``authorize``), ``hub_closed``,
        ``shutdown``, ``ended``, ``gap`` (with ``control=False``), ``error`` (``initial`` failed), or the text
        passed to ``disconnect`` (default ``kicked``) or ``Subscription.close`` (default ``closed``).
        """
        check_callback("on_disconnect", callback, "subscription", "reason", kind=_DEF_OR_ASYNC)
        self._on_disconnect.append(callback)
        self._report_disconnects()
        return callback

    async def presence(self, topic: str | None = None) -> Presence:
        """The subscribers of ``topic``, or of the hub, in all processes.

        ``count`` and ``subscribers`` return those of this process without waiting. With a broker, every
        process writes its own subscribers there a few times a second. In Redis they expire 15 seconds after a
        process died; in files they disappear with their process.

        Raises:
            BrokerError: the broker did not answer.
        """
        if self.broker is None:
            ids = sorted(subscriber.id for subscriber in self.subscribers(topic))
        else:
            ids = await self._present(topic)
        return Presence(len(ids), tuple(ids))

    async def aclose(self, grace: float | None = None) -> None:
        """Stop all runs and end all streams, delivering what was published for at most ``grace`` seconds.

        Runs get half of that time to close; their watchers are told that they were stopped. ``on_finish``
        of each may go on until three quarters are over. Streams have the rest: at least a quarter, so that
        all of it takes a quarter more than ``grace`` at most.

        Until it returns, publishing and subscribing raise ``HubClosed``. The next use starts the hub anew;
        without a broker, with a new epoch and an empty history. With a broker, everything that was published
        is sent first, for which closing waits as long as the broker's timeouts allow; the streams' quarter
        begins after that. Last, the process leaves the broker, within 2.5 seconds. When it returns, the files
        of a ``FileBroker`` are on disk. May be called again, and concurrently.
        """
        grace = self.grace if grace is None else _check_grace(grace)
        ends_by = time.monotonic() + grace
        await self._runs_here().stop_all(grace)
        closing = None
        try:
            # Streams may be on several loops and in the core: polling is simpler than a signal from each.
            while self._waits_for_broker(ends_by):  # noqa: ASYNC110
                await asyncio.sleep(_POLL)
            deadline = max(ends_by, time.monotonic() + grace / 4)
            if (closing := self._begin_close()) is not None:
                while self._unfinished(closing) and time.monotonic() < deadline:  # noqa: ASYNC110
                    await asyncio.sleep(_POLL)
        finally:  # When cancelled, finish at once: a hub that stayed closing could never be used again.
            if closing is not None or (closing := self._begin_close()) is not None:
                self._finish_close(closing)
        gone_by = time.monotonic() + _BROKER_ENDS
        while self._is_broker_ending() and time.monotonic() < gone_by:  # noqa: ASYNC110
            await asyncio.sleep(_POLL)

    def close(self, grace: float | None = None) -> None:
        """``aclose`` for sync code.

        Called on an event loop's own thread it cannot wait for the streams of that loop: they end as soon as
        the loop runs again.
        """
        grace = self.grace if grace is None else _check_grace(grace)
        ends_by = time.monotonic() + grace
        self._runs_here().stop_all_here(grace, on_a_loop=on_asyncio())
        closing = None
        try:
            while self._waits_for_broker(ends_by):
                time.sleep(_POLL)
            deadline = max(ends_by, time.monotonic() + grace / 4)
            if (closing := self._begin_close()) is not None:
                while not on_asyncio() and self._unfinished(closing) and time.monotonic() < deadline:
                    time.sleep(_POLL)
        finally:  # When interrupted (Ctrl-C), finish at once.
            if closing is not None or (closing := self._begin_close()) is not None:
                self._finish_close(closing)
        gone_by = time.monotonic() + _BROKER_ENDS
        while self._is_broker_ending() and time.monotonic() < gone_by:
            time.sleep(_POLL)

    def _waits_for_broker(self, deadline: float) -> bool:
        """Whether a broker has yet to answer publications or, until ``deadline``, to deliver them back.

        From now on the hub publishes nothing more.
        """
        if (left := self._refuse()) is None:
            return False
        unsent, late = left
        return unsent > 0 or (late and time.monotonic() < deadline)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Hub {self.name!r}, {self.count()} subscribers>"


def _check_grace(grace: float) -> float:
    check_seconds("grace", grace)
    if not 0 <= grace < float("inf"):
        raise ValueError(f"grace must be a number of seconds from 0, not {grace}")
    return grace
