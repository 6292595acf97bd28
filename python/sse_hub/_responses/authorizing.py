"""Asking the application which topics a user may listen to: at first, at a join, and again and again.

The application's function is asked about a *user*, the ``user=`` of streams, and the topics of all streams of
that user that began on one event loop. Those that it no longer allows are left. It fails closed::

    allowed --every seconds--> asked --some topics, or all--> allowed
                                 |----none-----------------> revoked: the streams end
                                 '----no answer: asked again four times as often,
                                      until the last answer is twice `every` old --> revoked
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
import itertools
import logging
import random
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context
from typing import Any, TypeAlias

from starlette.exceptions import HTTPException

from sse_hub import _core
from sse_hub._core import Subscription
from sse_hub._ends import EndKind
from sse_hub._responses.options import Topics
from sse_hub.exceptions import NotAuthorized

__all__ = ["Authorize", "Authorizer"]

Authorize: TypeAlias = Callable[[str | None, frozenset[str]], Topics | Awaitable[Topics]]
"""A function that takes a user and topics, and returns those topics that the user may listen to."""

logger = logging.getLogger("sse_hub")

_PATIENCE = 10.0  # seconds that one answer may take
# How much sooner than after `every` seconds a user may be asked, so that the users of one moment are not
# asked in one moment.
_SPREAD = 0.25
_FAILURES = 4  # how many times as often it is asked again after a failure
_TICK = 1e-6  # seconds by which a timer may be early, and a sum of floats wrong
_VALID = 2  # how many times `every` an answer is valid while there is no newer one


class Authorizer:
    """A hub's function, and the users whose streams are open."""

    def __init__(self, hub: _core.Hub, name: str, function: Authorize, every: float, *, manual: bool) -> None:
        self._hub = weakref.ref(hub)
        self._name = name
        self._function = function
        self.every = every
        self._watches: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Watch] = (
            weakref.WeakKeyDictionary()
        )
        self._advanced: float | None = 0.0 if manual else None
        self._failing: set[str | None] = set()

    @property
    def hub(self) -> _core.Hub | None:
        return self._hub()

    # Asking.

    async def allowed(
        self, user: str | None, topics: frozenset[str], timeout: float = _PATIENCE
    ) -> frozenset[str]:
        """Those of ``topics`` that the user may listen to. Raises what the function raises."""
        answer = self._function(user, topics)
        if inspect.isawaitable(answer):
            async with asyncio.timeout(timeout):
                answer = await answer
        return _among(topics, answer)

    def allowed_at_once(self, user: str | None, topics: frozenset[str], instead: str) -> frozenset[str]:
        """The same for a caller that cannot wait. ``instead`` says what it should do."""
        answer = self._function(user, topics)
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()
            raise RuntimeError(f"hub {self._name!r}: authorize's function is async: {instead}")
        return _among(topics, answer)

    async def within(self, request: _core._Request) -> _core._Request | None:
        """The request with those of its topics that its user may listen to; None when there are none."""
        topics = frozenset(request._topics)
        if not topics:
            return request
        allowed = await self.allowed(request._user, topics)
        return request._within(allowed) if allowed else None

    def within_at_once(self, request: _core._Request) -> _core._Request:
        """The same for a caller that cannot wait; raises NotAuthorized when there are none."""
        topics = frozenset(request._topics)
        if not topics:
            return request
        instead = "return Hub.response(…), which can wait for it, or make the function def"
        allowed = self.allowed_at_once(request._user, topics, instead)
        if not allowed:
            _refuse(request._user, topics)
        return request._within(allowed)

    async def check_join(self, user: str | None, topics: Iterable[str]) -> None:
        """Raise NotAuthorized unless the user may listen to all of these topics."""
        wanted = frozenset(topics)
        _refuse(user, wanted - await self.allowed(user, wanted))

    def check_join_at_once(self, user: str | None, topics: Iterable[str]) -> None:
        """The same for a caller that cannot wait."""
        wanted = frozenset(topics)
        instead = "await Subscription.ajoin(topics) instead of join"
        _refuse(user, wanted - self.allowed_at_once(user, wanted, instead))

    # Watching.

    def watch(self, loop: asyncio.AbstractEventLoop, id: str, user: str | None) -> None:
        """Ask about a new stream again and again from now on. On its loop."""
        watch = self._watches.get(loop)
        if watch is None:
            watch = self._watches.setdefault(loop, _Watch(self, loop))
        watch.add(id, user)

    def failed(self, user: str | None) -> None:
        """Log, once until it answers about everybody, that the function fails."""
        if not self._failing:
            logger.exception(
                "hub %r: authorize failed for user %r: streams keep their topics until the last answer is"
                " %g seconds old, and end then",
                self._name,
                user,
                _VALID * self.every,
            )
        self._failing.add(user)

    def answered(self, user: str | None) -> None:
        """The function answered about this user, or no stream of the user is left."""
        if user in self._failing:
            self._failing.discard(user)
            if not self._failing:
                logger.warning("hub %r: authorize answers again", self._name)

    # Time: the machine's, or that of a test.

    def now(self) -> float:
        return time.monotonic() if self._advanced is None else self._advanced

    @property
    def is_manual(self) -> bool:
        return self._advanced is not None

    def advance(self, by: float) -> None:
        """Advance a manual clock, and begin what is due."""
        if self._advanced is not None:
            self._advanced += by
            for watch in list(self._watches.values()):
                watch.tick()

    def next_due(self) -> float | None:
        """Seconds until a user is asked again; None when there is none."""
        due = [at for watch in list(self._watches.values()) if (at := watch.next_due()) is not None]
        return max(min(due) - self.now(), 0.0) if due else None


class _User:
    """A user with open streams."""

    __slots__ = ("ids", "valid_until")

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.valid_until = 0.0


class _Watch:
    """The users whose streams began on one event loop. Used on that loop only."""

    def __init__(self, authorizer: Authorizer, loop: asyncio.AbstractEventLoop) -> None:
        self._authorizer = authorizer
        self._loop = weakref.ref(loop)
        self._users: dict[str | None, _User] = {}
        self._due: list[tuple[float, int, str | None]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0  # uvloop's handle does not say it when that is now
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, id: str, name: str | None) -> None:
        """The user of a new stream was asked about just now."""
        now, every = self._authorizer.now(), self._authorizer.every
        user = self._users.get(name)
        if user is None:
            user = self._users[name] = _User()
            self._ask_at(now + _soon(every), name)
        user.ids.add(id)
        user.valid_until = now + _VALID * every

    def next_due(self) -> float | None:
        return self._due[0][0] if self._due else None

    def tick(self) -> None:
        """Ask about the users that are due."""
        now, loop = self._authorizer.now(), self._loop()
        while loop is not None and self._due and self._due[0][0] <= now + _TICK:
            _, _, name = heapq.heappop(self._due)
            # The context of the request that set the timer would mislead about all others.
            task = loop.create_task(self._ask(name), context=Context())
            self._tasks.add(task)  # The loop holds tasks weakly.
            task.add_done_callback(self._tasks.discard)
        self._set_timer()

    def _timed_out(self) -> None:
        self._timer = None
        self.tick()

    def _ask_at(self, at: float, name: str | None) -> None:
        heapq.heappush(self._due, (at, next(self._order), name))
        self._set_timer()

    def _set_timer(self) -> None:
        loop, due = self._loop(), self.next_due()
        if self._authorizer.is_manual or loop is None or due is None:
            return
        at = loop.time() + max(due - self._authorizer.now(), 0.0)
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = loop.call_at(at, self._timed_out, context=Context())

    async def _ask(self, name: str | None) -> None:
        """Ask about one user, and about that user again later unless no stream is left."""
        user, now, every = self._users[name], self._authorizer.now(), self._authorizer.every
        hub, known = self._authorizer.hub, set(user.ids)
        streams = {id: stream for id in known if (stream := _find(hub, id)) is not None}
        topics = {id: frozenset(stream.topics) for id, stream in streams.items()}
        again = now + _soon(every)
        if asked := frozenset[str]().union(*topics.values()):
            try:
                allowed = await self._allowed(name, asked)
            except Exception:
                self._authorizer.failed(name)
                again = min(now + every / _FAILURES, user.valid_until)
                is_valid = self._authorizer.now() + _TICK < user.valid_until
                allowed = asked if is_valid else frozenset()
            else:
                self._authorizer.answered(name)
                user.valid_until = now + _VALID * every
            for id, stream in streams.items():
                _take_away(stream, topics[id] - allowed)
        user.ids -= {id for id in known if id not in streams or streams[id].closed is not None}
        if user.ids:
            self._ask_at(again, name)
        else:
            del self._users[name]
            self._authorizer.answered(name)

    async def _allowed(self, name: str | None, topics: frozenset[str]) -> frozenset[str]:
        try:
            return await self._authorizer.allowed(name, topics, min(self._authorizer.every, _PATIENCE))
        except HTTPException as error:
            if error.status_code < 500:
                return frozenset()
            raise


def _soon(every: float) -> float:
    return every * random.uniform(1 - _SPREAD, 1)


def _find(hub: _core.Hub | None, id: str) -> Subscription | None:
    """A handle to an open stream."""
    stream = None if hub is None else hub.get(id)
    return None if stream is None or stream.closed is not None else stream


def _take_away(stream: Subscription, taken: frozenset[str]) -> None:
    if not taken:
        return
    if taken.issuperset(stream.topics):
        stream._end(EndKind.REVOKED)
    else:
        stream.leave(taken)


def _among(topics: frozenset[str], answer: Any) -> frozenset[str]:
    if isinstance(answer, str):
        answer = (answer,)
    if not isinstance(answer, Iterable):
        raise TypeError(f"authorize's function returns the topics that are allowed, not {answer!r}")
    return topics.intersection(answer)


def _refuse(user: str | None, topics: frozenset[str]) -> None:
    if topics:
        names = ", ".join(map(repr, sorted(topics)))
        raise NotAuthorized(f"user {user!r} may not listen to {names}; nothing has changed")
