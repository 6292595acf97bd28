"""The options of a stream, written once for ``subscribe``, ``response``, ``endpoint`` and ``follow``."""

from __future__ import annotations

import difflib
import math
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypedDict

from starlette.background import BackgroundTask

from sse_hub._core import Subscription, _Request

__all__ = [
    "FollowOptions",
    "Initial",
    "Overflow",
    "Replay",
    "StreamOptions",
    "SubscribeOptions",
    "Topics",
    "check_last_event_id",
    "check_names",
    "make_request",
]

Topics: TypeAlias = str | Iterable[str]
"""One topic, or several."""

Overflow: TypeAlias = Literal["disconnect", "drop_oldest", "drop_newest"]
"""What happens when more events wait behind a client's unfinished write than allowed."""

Replay: TypeAlias = int | Literal["all"]
"""How much of each topic's past a newcomer gets."""

Initial: TypeAlias = Callable[[Subscription], Any | Awaitable[Any] | Iterable[Any] | AsyncIterable[Any]]
"""A function that returns a new client's first events."""


class _TopicOptions(TypedDict, total=False):
    """How a stream joins its topics. A run decides that for its watchers."""

    replay: Replay
    """How many events of each topic's past a newcomer gets, or ``"all"``; default 0. A client's own id
    overrides it."""
    overflow: Overflow | None
    """Replaces the hub's ``overflow``; default None."""
    capacity: int | None
    """Replaces the hub's ``capacity``, a number of events; default None."""
    control: bool
    """Whether the stream has the hub's own events, ``stream-open`` and the like; default True. False is for
    clients that take each event for one of the application's. A gap then breaks the stream off; if the gap is
    known before the response's head, the status is 409."""


class _ClientOptions(TypedDict, total=False):
    """A client, and for how long and how often it is written to."""

    last_event_id: str | None
    """The id of the last event that the client saw; default None; a response then uses the request's."""
    user: str | None
    """The name of the client's user, for ``disconnect(user=…)``; default None."""
    info: Any
    """Any object of the application's, available as ``Subscription.info``; default None."""
    rate: float | None
    """Replaces the hub's ``rate``, the most writes of events a second, from 0.001 to 100; default None."""
    max_age: float | None
    """Seconds after which the stream ends and the browser comes back; default None, no limit."""
    expires: datetime | float | None
    """When the client's authorization expires: an aware datetime, or seconds since the epoch (a token's
    ``exp``); default None, never. The stream ends with the reason ``expired``, at most 30 seconds and a
    twentieth of the time early, so that tokens issued together do not bring all clients back together; the
    browser comes back, and your endpoint checks it again. A response whose time is over is a 401 instead of a
    stream; ``subscribe`` raises ``NotAuthorized``."""


class _ResponseOptions(TypedDict, total=False):
    """A stream as a response."""

    compress: bool | None
    """Whether the body is compressed (gzip) for a client that accepts it; default None, the hub's
    ``compress``."""
    handoff: bool | None
    """Whether the connection is handed to the reactor if possible; default None, the hub's ``handoff``. False
    is for middleware that changes only later chunks of the body. True also leaves a server that limits its
    connections (``--limit-concurrency``)."""
    hold_dependencies: bool
    """Keep FastAPI's dependencies with ``yield`` open until the stream has ended, which then stays with the
    server; default False: they close when the stream has begun and ``initial`` has returned its events, so
    that no database session is held for as long as a client listens."""
    status_code: int
    """The response's status, from 200 to 599 and one that has a body; default 200. A browser accepts no
    other."""
    headers: Mapping[str, str] | None
    """More headers; default None."""
    background: BackgroundTask | None
    """Run on the event loop when the stream has ended; default None. It must not use the request's
    dependencies, which are closed by then."""


class SubscribeOptions(_ClientOptions, _TopicOptions, total=False):
    """The options of ``Hub.subscribe``."""


class FollowOptions(_ResponseOptions, _ClientOptions, total=False):
    """The options of ``Hub.follow`` and ``Run.response``: those of ``Hub.response`` that no run decides."""


class StreamOptions(_ResponseOptions, SubscribeOptions, total=False):
    """The options of ``Hub.response`` and ``Hub.endpoint``: those of ``subscribe`` and ``follow``, and
    ``initial``."""

    initial: Initial | None
    """A function that is called with the subscription after it was registered, while live events are held
    back, unless the client resumed completely; default None. It returns (or awaits, or yields) events that
    come before anything newer: a snapshot, rows from a database. An event is a ``ServerSentEvent`` or any
    value as JSON; a list, tuple or (async) generator is several. The last one carries the cursor's id, so a
    client that is cut off before it gets all of them again."""


def check_names(where: str, given: Mapping[str, Any], allowed: frozenset[str]) -> None:
    """Raise TypeError, as Python does for a function's arguments, when an option has no such name."""
    if given.keys() <= allowed:
        return
    name = next(name for name in given if name not in allowed)
    close = difflib.get_close_matches(name, allowed, 1)
    hint = f". Did you mean {close[0]!r}?" if close else ""
    raise TypeError(f"{where}() got an unexpected keyword argument {name!r}{hint}")


def check_last_event_id(given: str | None) -> str | None:
    """Return the id that an application gives."""
    if given is not None and not isinstance(given, str):
        raise TypeError(f"last_event_id is a str, not {type(given).__name__}")
    return given


def make_request(
    topics: Topics,
    options: SubscribeOptions,
    *,
    initial: bool = False,
    format: str | None = None,
    whole: bool = False,
) -> _Request:
    """Convert the options that a subscriber begins with to the core's form.

    ``format`` is that of a run's end. With ``whole`` the topic is a run, of which everything is kept,
    and the stream gets no broadcasts.
    """
    return _Request(
        topics,
        replay=options.get("replay", 0),
        user=options.get("user"),
        overflow=options.get("overflow"),
        capacity=options.get("capacity"),
        max_age=options.get("max_age"),
        initial=initial,
        expires=_since_epoch(options.get("expires")),
        rate=options.get("rate"),
        control=options.get("control", True),
        format=format,
        whole=whole,
    )


_LONG_AGO = 365 * 86400  # seconds: no token expired in 1970, so this was meant as a duration


def _since_epoch(expires: datetime | float | None) -> float | None:
    """Seconds since the epoch; the core checks their range."""
    if expires is None:
        return None
    if isinstance(expires, datetime):
        if expires.utcoffset() is None:
            raise ValueError(f"expires must be an aware datetime, one with a time zone, not {expires!r}")
        return expires.timestamp()
    if isinstance(expires, bool) or not isinstance(expires, int | float):
        raise TypeError(
            "expires is an aware datetime or a number of seconds since the epoch,"
            f" not {type(expires).__name__}"
        )
    if 0 < expires < _LONG_AGO:
        raise ValueError(
            f"expires is a time, in seconds since the epoch: {expires!r} is in 1970; a duration is max_age"
        )
    try:
        return float(expires)
    except OverflowError:
        return math.inf if expires > 0 else -math.inf
