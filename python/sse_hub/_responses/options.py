"""The options of a stream, written once for ``subscribe``, ``response`` and ``endpoint``."""

from __future__ import annotations

import difflib
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias, TypedDict

from starlette.background import BackgroundTask

from sse_hub._core import Subscription, _Request

__all__ = [
    "Initial",
    "Overflow",
    "Replay",
    "StreamOptions",
    "SubscribeOptions",
    "Topics",
    "check_names",
    "make_request",
]

Topics: TypeAlias = str | Iterable[str]
"""One topic, or some."""

Overflow: TypeAlias = Literal["disconnect", "drop_oldest", "drop_newest"]
"""What happens when more events wait behind a client's unfinished write than allowed."""

Replay: TypeAlias = int | Literal["all"]
"""How much of each topic's past a newcomer gets."""

Initial: TypeAlias = Callable[[Subscription], Any | Awaitable[Any] | Iterable[Any] | AsyncIterable[Any]]
"""A function that gives a new client's first events."""


class SubscribeOptions(TypedDict, total=False):
    """The options of ``Hub.subscribe``, which explains them; its ``topics`` come first."""

    replay: Replay
    last_event_id: str | None
    user: str | None
    info: Any
    overflow: Overflow | None
    capacity: int | None
    max_age: float | None


class StreamOptions(SubscribeOptions, total=False):
    """The options of ``Hub.response``, which explains them, and of ``Hub.endpoint``."""

    initial: Initial | None
    handoff: bool
    status_code: int
    headers: Mapping[str, str] | None
    background: BackgroundTask | None


def check_names(where: str, given: Mapping[str, Any], allowed: frozenset[str]) -> None:
    """Raise TypeError, as Python does for a function's arguments, when an option has no such name."""
    if given.keys() <= allowed:
        return
    name = next(name for name in given if name not in allowed)
    close = difflib.get_close_matches(name, allowed, 1)
    hint = f". Did you mean {close[0]!r}?" if close else ""
    raise TypeError(f"{where}() got an unexpected keyword argument {name!r}{hint}")


def make_request(topics: Topics, options: SubscribeOptions, *, initial: bool = False) -> _Request:
    """The core's form of the options that a subscriber begins with."""
    return _Request(
        topics,
        replay=options.get("replay", 0),
        user=options.get("user"),
        overflow=options.get("overflow"),
        capacity=options.get("capacity"),
        max_age=options.get("max_age"),
        initial=initial,
    )
