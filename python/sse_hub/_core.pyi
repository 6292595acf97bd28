"""The native part of sse_hub."""

from asyncio import AbstractEventLoop, Future
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
from collections.abc import Set as AbstractSet
from os import PathLike
from types import TracebackType
from typing import Any, Literal, Self, final

from typing_extensions import disjoint_base

from sse_hub._ends import EndKind, EndReason

__all__ = [
    "EventEncoder",
    "FileBroker",
    "Hub",
    "Publication",
    "Pump",
    "RedisBroker",
    "RunPump",
    "Subscription",
    "_Request",
    "_acknowledged",
    "_check_event_name",
    "_close",
    "_duplicate",
    "_end",
    "_flush",
    "_limit_unsent",
    "_release",
    "_unacknowledged",
    "dumps",
    "encode_fields",
    "json_text",
]

def _check_event_name(name: str) -> None: ...
def _close(fd: int) -> None: ...
def _duplicate(fd: int) -> int: ...
def _end() -> None: ...
def _flush() -> None: ...
def _limit_unsent(fd: int, limited: bool) -> None: ...
def _release(fd: int) -> bool: ...
def _unacknowledged(fd: int) -> int | None: ...
def _acknowledged(fd: int) -> int | None: ...

@final
class Publication:
    """The outcome of a publication.

    Await it, or call ``result()`` in sync code, for the event's id (None for an event sent to one
    subscriber, which carries no id). Without a broker the id is known at once, so neither waits. With one,
    both raise BrokerError when nothing was published, and OutcomeUnknown when the reply was lost: the event
    may have been published or not, and is not sent again. A failure that no caller sees is logged.
    """

    @property
    def id(self) -> str | None:
        """The event's id once it is known: opaque and never reused. Browsers send it as Last-Event-ID.

        None until then, for an event sent to one subscriber, and when publishing failed.
        """

    def done(self) -> bool:
        """Whether the outcome is known."""

    def result(self, timeout: float | None = None) -> str | None:
        """Return the event's id, waiting for it at most ``timeout`` seconds.

        None waits as long as it takes, which is bounded by the broker's own timeouts. Do not call it on the
        thread of an event loop, which it would block: await the publication there.

        Raises:
            TimeoutError: the outcome is not known after ``timeout`` seconds.
            BrokerError: nothing was published.
            OutcomeUnknown: the broker's reply was lost.
        """

    def __await__(self) -> Generator[Any, None, str | None]: ...

@final
class Subscription:
    """One client's stream: an async iterator of bytes ready to be written, and a handle to the client.

    Iterate it on the event loop it was made on, from one task at a time. Every other method may be called
    from any thread. Dropping the object that ``subscribe`` returned ends the stream. So does an exception
    that leaves an ``async for``, 0.1 s after the task has ended, unless something reads on by then; a timeout
    around ``anext`` does not.
    """

    @property
    def id(self) -> str:
        """The client's id, for ``send`` and ``disconnect``. Opaque and unguessable."""

    @property
    def topics(self) -> tuple[str, ...]:
        """The names of its topics, sorted; once it is closed, those that it had."""

    @property
    def user(self) -> str | None:
        """The ``user`` that the application passed, or None."""

    @property
    def info(self) -> Any:
        """The ``info`` object that the application passed, or None."""

    @property
    def recovered(self) -> bool | None:
        """True when the client resumed completely, False when it was reset, None for a newcomer."""

    @property
    def closed(self) -> EndReason | None:
        """Why the stream ended: a str with a ``kind``. None while it is open."""

    @property
    def path(self) -> Literal["loop", "reactor"]:
        """How its bytes travel: through the server on the event loop, or handed off to a reactor."""

    @property
    def _hub(self) -> Hub: ...
    @property
    def _loop(self) -> AbstractEventLoop | None: ...
    def join(self, topics: str | Iterable[str]) -> bool:
        """Join these topics too, from the next event on.

        Returns False when the client is gone, or all its topics have ended: then its stream ends.

        Raises:
            ValueError: a name breaks a rule.
            HubFull: the client's event loop has not run while very many joins and leaves waited for it.
            TooManyTopics: the client would be in more than ``max_topics``; none was joined.
            NotAuthorized: the hub's ``authorize`` does not allow one of the topics; none was joined.
            RuntimeError: the function of ``authorize`` is async: use ``ajoin``.
        """

    def ajoin(self, topics: str | Iterable[str]) -> Awaitable[bool]:
        """``join`` where the function of ``authorize`` is async: the topics are joined once it allows them.

        Raises what ``join`` raises, except RuntimeError, and what the function raises.
        """

    def leave(self, topics: str | Iterable[str]) -> bool:
        """Leave these topics, from the next event on.

        Returns False when the client is gone.
        """

    def send(
        self,
        data: Any = ...,
        *,
        raw_data: str | bytes | None = None,
        event: str | None = None,
        retry: int | None = None,
        comment: str | None = None,
        key: str | None = None,
    ) -> Publication:
        """Send an event to this client alone: in order with everything else, without an id, not replayed.

        Arguments and errors are those of ``Hub.publish``. A value with a ``key`` replaces only values that
        were sent to this client.
        """

    def close(self, *, drain: bool = True, reason: str | None = None) -> None:
        """End the stream after what was published or sent so far.

        With a broker the end travels through it, behind what was published; ``closed`` is None until the end
        arrives.

        Args:
            drain: False drops what is queued and ends the stream at once.
            reason: the text for ``closed`` and ``on_disconnect``; default ``"closed"``.
        """

    def aclose(self) -> Awaitable[None]:
        """``close()`` as an awaitable, for ``contextlib.aclosing``."""

    def _join(self, topics: str | Iterable[str]) -> bool: ...
    def _end(self, kind: EndKind) -> None: ...
    def _on_close(self, callback: Callable[[EndReason], object] | None) -> None: ...
    def _ask_progress(self, callback: Callable[[], tuple[int, int | None] | None]) -> None: ...
    def _keep_fresh_by(self, callback: Callable[[], object]) -> None: ...
    def _resolved(self) -> Awaitable[None]: ...
    def _initial(self, events: list[Any]) -> None: ...
    def _is_over(self) -> bool: ...
    def _compress(self, owes_header: bool) -> bool: ...
    def _can_hand_over(self) -> bool: ...
    def _hand_over(self, fd: int, group: int, on_end: Callable[[EndReason], object] | None) -> bool: ...
    def __aiter__(self) -> AsyncIterator[bytes]: ...
    def __anext__(self) -> Awaitable[bytes]: ...
    def __aenter__(self) -> Awaitable[Self]: ...
    def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> Awaitable[None]: ...
    def __eq__(self, value: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class FileBroker:
    """Connects the processes of a hub through files in a directory: all workers of one host, and no server.

    ``Hub("file:events")`` is short for ``Hub(FileBroker("file:events"))``. Ids and history survive restarts,
    deploys and crashes. Nothing is created before the hub's first use, and one broker may serve several hubs;
    each has its own directory, named after the hub's ``name``. For Linux and macOS.

    A process that is frozen while it writes (SIGSTOP, a debugger) keeps the others from publishing: they get
    BrokerError after ``timeout``, nothing is written, and their clients stay connected.

    Args:
        path_or_url: the directory, which is created with its parents; or ``file:path``, relative to the
            working directory, or ``file:///path``. It must be on a local disk: locks and notifications do not
            work on a network file system.
        timeout: how long a publication may wait for another process that is writing, in seconds.
        min_age: how long the log keeps every event, in seconds, whatever the hub's ``history`` says, so that
            a burst does not overrun a process that is no further behind.
        sync: whether an event must be on disk before it counts as published. If not, a power failure may lose
            the newest events, and every client is then reset. A process that crashes loses nothing either
            way.
        mode: the mode of the files; users who may read the files may enter the directories. 0o660 shares the
            directory with the users of its group; otherwise it must belong to this user.

    Raises:
        ValueError: the URL or an option breaks a rule, the directory lies on a network or FUSE file system,
            or the system is Windows.
        PermissionError: the directory belongs to another user, or is not writable.
    """

    def __new__(
        cls,
        path_or_url: str | PathLike[str],
        *,
        timeout: float = 5.0,
        min_age: float = 10.0,
        sync: bool = False,
        mode: int = 0o600,
    ) -> Self: ...

@final
class RedisBroker:
    """Connects the processes of a hub through Redis (6.2 or newer) or Valkey, with Redis Streams.

    ``Hub("redis://localhost:6379")`` is short for ``Hub(RedisBroker("redis://localhost:6379"))``. It does not
    connect before the hub's first use, and one broker may serve several hubs.

    Args:
        url: ``redis://[[user]:password@]host[:port][/db]``, ``rediss://`` for TLS, or
            ``unix:///path?db=0&user=&pass=``. Valkey's names ``valkey://`` and ``valkeys://`` mean the same.
            Through sentinels: ``redis+sentinel://[[user]:password@]host:26379[,host:26379]/service[?db=0]``,
            or ``rediss+sentinel://`` for TLS to the sentinels and the servers. For a cluster: the URL of any
            node.
        prefix: the prefix of the keys, after the opening brace of their hash tag.
        timeout: how long a publication may wait to be sent, and then for its reply, in seconds.
        connect_timeout: how long connecting may take, in seconds.
        min_age: how long the stream keeps every event, in seconds, whatever the hub's ``history`` says, so
            that a burst does not overrun a process that is no further behind.
        min_replicas: how many replicas must have an event before it counts as published. If fewer have it
            within ``timeout``, awaiting the publication raises OutcomeUnknown. With 0, a failover may lose
            published events, and resets every client, because a loss cannot be ruled out.
        ca_certs: a file with the certificates (PEM) of the authority that signed the server's certificate;
            None for the system's.
        certfile: a file with the client's own certificate (PEM).
        keyfile: a file with its key (PEM).

    Raises:
        ValueError: the URL or an option breaks a rule.
        OSError: a file cannot be read.
    """

    def __new__(
        cls,
        url: str,
        *,
        prefix: str = "sse-hub",
        timeout: float = 5.0,
        connect_timeout: float = 1.5,
        min_age: float = 10.0,
        min_replicas: int = 0,
        ca_certs: str | PathLike[str] | None = None,
        certfile: str | PathLike[str] | None = None,
        keyfile: str | PathLike[str] | None = None,
    ) -> Self: ...

@final
class _Request:
    """What a subscriber asks for, except the last id it saw.

    Raises:
        ValueError: a topic's name or an option breaks a rule.
    """

    def __new__(
        cls,
        topics: str | Iterable[str],
        *,
        replay: int | Literal["all"],
        user: str | None,
        overflow: str | None,
        capacity: int | None,
        max_age: float | None,
        initial: bool,
        expires: float | None = None,
        rate: float | None = None,
        control: bool = True,
        format: str | None = None,
        whole: bool = False,
    ) -> Self: ...
    @property
    def _topics(self) -> list[str]: ...
    @property
    def _user(self) -> str | None: ...
    @property
    def _user_room(self) -> int | None: ...
    def _with_room(self, streams: int) -> Self: ...
    def _claiming(self) -> Self: ...
    def _compressed(self) -> Self: ...
    def _within(self, allowed: AbstractSet[str]) -> Self: ...

@disjoint_base
class Hub:
    """The native part of a hub; ``sse_hub.Hub`` adds the options' defaults and the Python side."""

    def __new__(
        cls,
        *,
        history: int,
        history_bytes: int,
        history_age: float | None,
        history_total_bytes: int,
        heartbeat: float | None,
        reconnect: Sequence[float],
        capacity: int,
        capacity_bytes: int,
        overflow: str,
        stall_timeout: float,
        backlog_bytes: int,
        max_event_bytes: int,
        max_subscribers: int | None,
        threads: int,
        max_per_user: int | None = None,
        max_topics: int | None = None,
        rate: float | None = None,
        broker: FileBroker | RedisBroker | None = None,
        name: str = "default",
        manual_clock: bool = False,
        traceparent: Callable[[], str | None] | None = None,
    ) -> Self: ...
    def publish(
        self,
        topics: str | Iterable[str],
        data: Any = ...,
        *,
        raw_data: str | bytes | None = None,
        event: str | None = None,
        retry: int | None = None,
        comment: str | None = None,
        key: str | None = None,
    ) -> Publication:
        """Publish an event to the subscribers of ``topics``.

        Never waits; may be called from any thread. The cost does not depend on the number of subscribers. A
        subscriber to several of the topics gets the event once.

        Args:
            topics: one name, or several.
            data: sent as compact JSON, including a str or None: anything that ``json`` accepts, pydantic
                models, dataclasses, datetimes, UUIDs, Decimals, enums. A ``ServerSentEvent``, FastAPI's or
                ours, means what it means in its own library.
            raw_data: sent as it is, instead of ``data``: a str, or UTF-8 bytes.
            event: the event's name; None means a browser's ``message``.
            retry: how long the browser waits before it reconnects, in milliseconds.
            comment: comment lines, which browsers ignore.
            key: what the event is the newest value of; 1 to 255 bytes of UTF-8. Of the events with one key
                and topic only the newest is kept in history, and only the newest waits for a slow client. A
                resumed client gets the newest value of each key that changed. None: no event replaces it.

        Raises:
            InvalidEvent: a field breaks a rule; the message names both.
            EventTooLarge: the event is larger than ``max_event_bytes``.
            HubFull: publishers have run ``backlog_bytes`` ahead of delivery.
            HubClosed: the hub is closing.
            ValueError: a topic's name breaks a rule.
            TypeError: ``data`` has no JSON form, or an argument is of the wrong type.

        When it raises, nothing was published.
        """

    def broadcast(
        self,
        data: Any = ...,
        *,
        raw_data: str | bytes | None = None,
        event: str | None = None,
        retry: int | None = None,
        comment: str | None = None,
        key: str | None = None,
    ) -> Publication:
        """Publish an event to every subscriber, whatever its topics; it is replayed like a topic's events.

        It does not reach the streams of runs, which carry the run's own events.

        Arguments and errors are those of ``publish``.
        """

    def send(
        self,
        subscriber_id: str,
        data: Any = ...,
        *,
        raw_data: str | bytes | None = None,
        event: str | None = None,
        retry: int | None = None,
        comment: str | None = None,
        key: str | None = None,
    ) -> Publication:
        """Send an event to one subscriber: in order with everything else, without an id, not replayed.

        Sending to a subscriber that is gone is not an error: without a broker ``stats()["undeliverable"]``
        counts it; with one, the subscriber may be in another process. Arguments and errors are those of
        ``publish``.
        """

    def disconnect(self, *, id: str | None = None, user: str | None = None, reason: str = "kicked") -> int:
        """End the stream of one subscriber, or all streams of a user, after what was published so far.

        Returns the number of these streams; with a broker, the number of those in this process, though those
        elsewhere end too. Their browsers come back unless the endpoint refuses them.
        """

    def end(self, topic: str, *, keep: float = 300.0) -> Publication:
        """End a topic, after what was published so far.

        The end is an entry in the log. The topic's subscribers get what is queued for them, then
        ``stream-end``, then the end of the body; a stream in several topics ends when all of them have ended.
        Later clients get what the topic keeps, then the end. A client that returns with the end's id gets a
        204, at which a browser's ``EventSource`` stops. May be called from any thread.

        Args:
            topic: the topic's name; the topic need not have been used before.
            keep: seconds until the name is free again and what the topic kept is forgotten.

        Raises:
            TopicEnded: the topic has already ended.
            HubClosed: the hub is closing.
            ValueError: the name or ``keep`` breaks a rule.
        """

    def count(self, topic: str | None = None) -> int:
        """The number of subscribers of ``topic``, or of the hub."""

    def subscribers(self, topic: str | None = None) -> list[Subscription]:
        """The subscribers of ``topic``, or of the hub, in no particular order."""

    def get(self, id: str) -> Subscription | None:
        """The subscriber with this id, or None."""

    def stats(self) -> dict[str, Any]:
        """Current counters and sizes, by name; docs/operations.md explains each."""

    def _histograms(self) -> dict[str, tuple[list[float], list[int], float]]: ...
    def _end_run(
        self, topic: str, keep: float, state: str, error: str | None, mark: str | int
    ) -> Publication: ...
    def _begin_run(self, topic: str, keep: float, token: str) -> Publication: ...
    def _begin_alone(self, topic: str) -> int: ...
    def _runs_alone(self, topic: str, run: int) -> bool: ...
    def _publish_part(
        self, topic: str, value: Any, room: int, token: str
    ) -> tuple[Publication, int] | None: ...
    def _ask_to_stop(self, topic: str) -> Publication: ...
    def _take_stop(self, topic: str) -> bool: ...
    def _take_lease(self, name: str, token: str) -> Awaitable[bool]: ...
    def _await_lease(self, name: str, token: str) -> Awaitable[bool]: ...
    def _lost(self, name: str, token: str) -> Future[None]: ...
    def _holds(self, name: str, token: str) -> bool: ...
    def _release(self, name: str, token: str) -> None: ...
    def _publish_held(
        self,
        lease: str,
        token: str,
        topics: str | Iterable[str],
        data: Any = ...,
        *,
        raw_data: str | bytes | None = None,
        event: str | None = None,
        retry: int | None = None,
        comment: str | None = None,
        key: str | None = None,
    ) -> Publication: ...
    def _is_followed(self, topic: str) -> bool | None: ...
    def _find_run(self, topic: str) -> Awaitable[bool]: ...
    def _run_changed(self, topic: str, token: str | None = None) -> Future[str | None]: ...
    def _watch_end(self, topic: str) -> Callable[[], str | None]: ...
    def _ending(self, topic: str) -> str | None: ...
    def _is_over(self, request: _Request, last_event_id: str | None) -> bool: ...
    def _is_expired(self, request: _Request) -> bool: ...
    def _set_retention(
        self, pattern: str, history: int, history_bytes: int, history_age: float | None
    ) -> None: ...
    def _subscribe(self, request: _Request, last_event_id: str | None, info: Any) -> Subscription: ...
    def _hand_over(
        self,
        fd: int,
        request: _Request,
        last_event_id: str | None,
        info: Any,
        *,
        group: int,
        on_end: Callable[[EndReason], object] | None,
    ) -> Subscription: ...
    def _prepare_hand_over(self) -> None: ...
    def _stop_group(self, group: int) -> None: ...
    def _open_in_group(self, group: int) -> int: ...
    def _abort_group(self, group: int) -> None: ...
    def _report_disconnects(self) -> None: ...
    def _refuse(self) -> tuple[int, bool] | None: ...
    def _count_of_user(self, user: str) -> int: ...
    def _claim(self, request: _Request, limit: int) -> Awaitable[bool]: ...
    def _drop_claim(self, request: _Request) -> None: ...
    def _present(self, topic: str | None = None) -> Awaitable[list[str]]: ...
    def _begin_close(self) -> str | None: ...
    def _unfinished(self, epoch: str) -> int: ...
    def _finish_close(self, epoch: str) -> None: ...
    def _is_broker_ending(self) -> bool: ...
    def _next_due(self) -> float | None: ...
    def _advance(self, by: float) -> None: ...

def dumps(value: Any) -> str:
    """The JSON text of a value: what ``json.dumps`` returns, compact and with non-ASCII characters kept.

    Raises TypeError, ValueError and RecursionError as ``json.dumps`` does, and UnicodeEncodeError for lone
    surrogates.
    """

def json_text(value: Any) -> str:
    """The JSON text of a value by the hub's rules: as FastAPI publishes it.

    Raises TypeError for a class without a JSON form, ValueError for NaN, infinity and a value that contains
    itself, UnicodeEncodeError for lone surrogates, RecursionError beyond a depth of 1,000.
    """

def encode_fields(
    comment: object, id: str | None, event: str | None, data: object, retry: int | None, sep: str
) -> bytes:
    """Encodes an event with these fields, its lines ended by ``sep``; fields that are None are not sent."""

@final
class EventEncoder:
    """Turns whatever a generator yields into wire bytes, knowing the classes of its event objects."""

    def __new__(cls, event_class: type, json_class: type) -> Self: ...
    def ensure_bytes(self, data: object, sep: str) -> bytes:
        """Encodes one item, as ``sse_hub.event.ensure_bytes`` documents."""

    def plain_json(self, event: object, data: object) -> str | None:
        """The JSON text for a JSON event under construction, or None if its parent class must be called."""

@final
class RunPump:
    """Drives the generator of a run in a process alone, and publishes what it yields.

    Awaited in the task that drives it. The result is None at the generator's end, or a tuple of an event that
    could not be published: ``publish`` it, then await the pump again.
    """

    def __new__(
        cls,
        hub: Hub,
        topic: str,
        run: int,
        content: AsyncIterable[Any],
        room: int,
        published: list[Any] | None,
    ) -> Self: ...
    def publish(self, item: Any) -> bool | None:
        """Publish an event. None while the hub is full; False if the run would exceed ``room`` bytes."""

    def end(self) -> None:
        """From now on, a generator that ignores its cancellation publishes nothing more."""

    def __await__(self) -> Generator[Any, Any, tuple[Any] | None]: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> Any: ...
    def throw(self, kind: object, value: object = None, trace: object = None) -> Any: ...
    def close(self) -> None: ...

@final
class Pump:
    """Drives content and writes its events to a connection; awaited in the task that drives the content."""

    def __new__(
        cls,
        content: AsyncIterable[Any],
        encoder: EventEncoder,
        sep: str,
        transport: Any,
        flow: Any,
        socket: int | None,
        head: bytes,
    ) -> Self:
        """``head`` is the response's, where it was not written: it goes out with the first event."""
    @staticmethod
    def sending(
        content: AsyncIterable[Any],
        encoder: EventEncoder,
        sep: str,
        send: Callable[[bytes], Awaitable[None]],
    ) -> Pump:
        """The same with a function that sends the bytes, once for each time that the content waits."""

    @property
    def is_busy(self) -> bool:
        """Whether nothing may be written now: the connection has to drain, or the content makes a step."""

    def write(self, bytes: bytes) -> bool:
        """Write bytes between two events; False if they have to be sent, or must wait."""

    def end(self) -> None:
        """From now on, content that ignores its cancellation sends nothing more."""

    def __await__(self) -> Generator[Any, Any]: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> Any: ...
    def throw(self, kind: object, value: object = None, trace: object = None) -> Any: ...
    def close(self) -> None: ...
