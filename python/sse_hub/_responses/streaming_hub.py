"""The part of a hub that responses use: opening streams, and calling the application back."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from threading import get_ident
from typing import Any, TypeAlias

from starlette.background import BackgroundTask
from starlette.types import Receive, Scope

from sse_hub import _core, _servers
from sse_hub._core import Subscription
from sse_hub._ends import EndReason
from sse_hub._handoff.attempt import Attempt
from sse_hub._handoff.taking import make_attempt
from sse_hub._responses.authorizing import Authorizer
from sse_hub._servers.stay import Stay, log_once
from sse_hub._stopping.handed import handed_off
from sse_hub._stopping.registry import RunningServer
from sse_hub.brokers import Broker
from sse_hub.exceptions import BrokerError, HubClosed

__all__ = ["OnConnect", "OnDisconnect", "StreamingHub", "check_asyncio"]

OnConnect: TypeAlias = Callable[[Subscription], Awaitable[None] | None]
OnDisconnect: TypeAlias = Callable[[Subscription, EndReason], Awaitable[None] | None]

logger = logging.getLogger("sse_hub")

_RELOAD = 0.3  # seconds; brokers get changes of presence each 0.2
_LOOK = 0.1  # seconds between two looks
_ANSWERS = 2.0  # seconds that a broker may take to say who is present

_NEEDS_ASYNCIO = (
    "a hub's streams need asyncio. Under trio, answer with EventSourceResponse and a generator, or run"
    " hypercorn with its asyncio or uvloop worker"
)


def check_asyncio() -> None:
    """Raise RuntimeError under trio, which a hub's streams do not support."""
    trio: Any = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        raise RuntimeError(_NEEDS_ASYNCIO)


class StreamingHub(_core.Hub):
    """The base of ``Hub``, whose constructor sets the attributes."""

    name: str
    grace: float
    broker: Broker | None
    _warned_of_workers: bool
    _compress: bool
    _handoff: bool | None
    _refused_by_environment: bool
    # By thread: each adds to its own numbers, as the loops of several may count at once.
    _stayed: Counter[tuple[int, str]]
    _hand_offs: Counter[int]
    _full_status: int
    _max_subscribers: int | None
    _max_per_user: int | None
    _max_topics: int | None
    _stall_timeout: float
    _authorizer: Authorizer | None
    _on_connect: list[OnConnect]
    _on_disconnect: list[OnDisconnect]
    _callbacks: set[asyncio.Future[Any]]

    def _warn_of_workers(self, receive: Receive) -> None:
        """Warn, once, of a server whose other processes this hub does not reach."""
        if not self._warned_of_workers and self.broker is None:
            self._warned_of_workers = True
            if (workers := _servers.workers(receive)) > 1:
                logger.warning(
                    "hub %r has no broker, so in each of the server's %d workers it reaches only its own"
                    ' clients: run one worker, or give it a broker: Hub("file:events"), or Hub("redis://…")'
                    " for several hosts",
                    self.name,
                    workers,
                )

    def _is_full(self, request: _core._Request) -> bool:
        """Whether there is no room for a subscriber."""
        if self._max_subscribers is not None and self.count() >= self._max_subscribers:
            return True
        user, room = request._user, request._user_room
        return user is not None and room is not None and self._count_of_user(user) >= room

    async def _admitted(self, request: _core._Request) -> _core._Request:
        """The request with a place among its user's streams, or without room. `_drop_claim` follows."""
        limit, user = self._max_per_user, request._user
        if limit is None or user is None:
            return request
        deadline = time.monotonic() + _RELOAD
        while True:
            claiming = request._claiming()
            is_granted = await self._claims(claiming, limit)
            if is_granted:
                return claiming
            if is_granted is None and self._count_of_user(user) < limit:
                return request
            if time.monotonic() >= deadline:
                return request._with_room(0)
            # A page that is reloaded is here before the end of its last stream is known everywhere.
            await asyncio.sleep(_LOOK)

    async def _claims(self, claiming: _core._Request, limit: int) -> bool | None:
        """Whether a request gets a place among its user's streams in all processes.

        None where this process has to count alone.
        """
        if self.broker is None:
            return None
        is_granted = False
        try:
            async with asyncio.timeout(_ANSWERS):
                is_granted = await self._claim(claiming, limit)
            return is_granted
        except (BrokerError, HubClosed, TimeoutError):
            return None
        finally:
            if not is_granted:
                self._drop_claim(claiming)

    def _attempt(self, scope: Scope, receive: Receive, handoff: bool | None) -> Attempt[int] | Stay:
        """An attempt to take a connection from its server, or why it stays there.

        ``handoff`` is the response's option; None is the hub's.
        """
        if self._refused_by_environment:
            return Stay.ENVIRONMENT
        wanted = self._handoff if handoff is None else handoff
        if wanted is False:
            return Stay.OPTION
        return make_attempt(scope, receive, insist=wanted is True)

    def _stays(self, stay: Stay | None) -> None:
        """Count a stream that stays with its server; None is one that does not."""
        log_once(stay)
        if stay is not None:
            self._stayed[get_ident(), stay.value] += 1

    def _turns_away(self, error: Exception) -> None:
        """Log why a client has to come back later, if the system is the reason."""
        if isinstance(error, OSError):
            logger.error(
                "hub %r: a stream could not be opened, and its client comes back in 30 seconds: %s",
                self.name,
                error,
            )

    def stats(self) -> dict[str, Any]:
        """Current counters and sizes, by name; docs/operations.md explains each."""
        stayed: Counter[str] = Counter()
        for (_, reason), count in dict(self._stayed).items():
            stayed[reason] += count
        hand_offs = sum(dict(self._hand_offs).values())
        return {**super().stats(), "stayed": dict(stayed), "hand_offs": hand_offs}

    def _handed(self, server: RunningServer, group: int) -> None:
        """Count a stream that was handed off, and have its server end it."""
        self._hand_offs[get_ident()] += 1
        handed_off(server, self, group)

    def _open(self, request: _core._Request, last_event_id: str | None, info: Any) -> Subscription:
        """Register a subscriber whose stream its server carries."""
        check_asyncio()
        subscription = self._subscribe(request, last_event_id, info)
        if (self._on_connect or self._authorizer) and (loop := subscription._loop) is not None:
            # This may be a worker thread of that loop.
            if self._authorizer is not None:
                watch = self._authorizer.watch
                loop.call_soon_threadsafe(watch, loop, subscription.id, subscription.user)
            if self._on_connect:
                loop.call_soon_threadsafe(self._connected, subscription)
        return subscription

    def _open_at_reactor(
        self,
        fd: int,
        server: RunningServer,
        request: _core._Request,
        last_event_id: str | None,
        info: Any,
        on_end: Callable[[str], object] | None,
    ) -> Subscription:
        """Register a subscriber whose stream a reactor writes; ``fd`` is the hub's unless this raises."""
        subscription = self._hand_over(fd, request, last_event_id, info, group=server.group, on_end=on_end)
        self._handed(server, server.group)
        loop = asyncio.get_running_loop()
        if self._authorizer is not None:
            self._authorizer.watch(loop, subscription.id, subscription.user)
        if self._on_connect:
            loop.call_soon(self._connected, subscription)
        return subscription

    def _transfer_to_reactor(
        self,
        fd: int,
        server: RunningServer,
        subscription: Subscription,
        on_end: Callable[[str], object] | None,
    ) -> bool:
        """Transfer a stream of this loop, which ``AppStatus`` ends as well, to a reactor.

        ``fd`` is the hub's unless this raises or returns False: then the stream cannot go on there, because
        it was iterated since the last check, or because its hub has ended.
        """
        if not subscription._hand_over(fd, server.switched_group, on_end):
            return False
        self._handed(server, server.switched_group)
        return True

    def _before_stop(self, then: Callable[[], None], /) -> None:
        """Call ``then``, which ends streams of a stopping server, after what must come before their end."""
        then()

    # Authorization. The core calls `_check_join` and `_join_when_allowed` by their names.

    def _check_join(self, user: str | None, topics: list[str]) -> None:
        """Raise NotAuthorized if the user may not join a topic."""
        if self._authorizer is not None:
            self._authorizer.check_join_at_once(user, topics)

    async def _join_when_allowed(self, subscription: Subscription, topics: list[str]) -> bool:
        """Join topics after asking whether the user may."""
        if self._authorizer is not None:
            await self._authorizer.check_join(subscription.user, topics)
        return subscription._join(topics)

    def _next_due(self) -> float | None:
        due = super()._next_due()
        mine = None if self._authorizer is None else self._authorizer.next_due()
        return min((at for at in (due, mine) if at is not None), default=None)

    def _advance(self, by: float) -> None:
        super()._advance(by)
        if self._authorizer is not None:
            self._authorizer.advance(by)

    # The application's functions.

    def _connected(self, subscription: Subscription) -> None:
        for callback in self._on_connect:
            self._call(callback, subscription)

    # The core calls these by their names.
    def _topic_ended(self, topic: str) -> None:
        """The application has ended a topic of a hub without a broker."""

    def _disconnected(self, subscription: Subscription, reason: EndReason) -> None:
        for callback in self._on_disconnect:
            self._call(callback, subscription, reason)

    def _on_end(self, background: BackgroundTask | None) -> Callable[[str], object] | None:
        """What runs a response's background task, in the request's context, when a reactor's stream ends."""
        if background is None:
            return None
        context = copy_context()
        return lambda reason: context.run(self._run_background, background, reason)

    def _run_background(self, background: BackgroundTask, reason: str) -> None:
        self._call(background)

    def _call(
        self, callback: Callable[..., Awaitable[None] | None], *args: Any
    ) -> asyncio.Future[None] | None:
        """Call a function of the application. Returns the future of one that goes on."""
        try:
            outcome = callback(*args)
        except Exception:
            logger.exception("hub %r: %r failed", self.name, callback)
            return None
        if not inspect.isawaitable(outcome):
            return None
        future: asyncio.Future[None] = asyncio.ensure_future(outcome)
        self._callbacks.add(future)  # The loop holds tasks weakly.
        future.add_done_callback(self._called)
        return future

    def _called(self, future: asyncio.Future[None]) -> None:
        self._callbacks.discard(future)
        if not future.cancelled() and (error := future.exception()) is not None:
            logger.error("hub %r: a callback failed", self.name, exc_info=error)
