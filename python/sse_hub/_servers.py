"""What is known of the ASGI servers' insides, and nothing else in the package knows it.

Everything is looked up, never assumed: an attribute that is missing in another version means that the
server is left alone. See ``docs/stopping.md`` for what each server then does by itself.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator
from types import FunctionType, MethodType
from typing import Any, Protocol, TypeVar


class Record(Protocol):
    """A response in progress: the part of ``_serving.Serving`` that finding its connection needs."""

    scope: Any
    receive: Any


R = TypeVar("R", bound=Record)


class Server(Protocol):
    """One running server, asked while it stops."""

    @property
    def limit(self) -> float | None:
        """Seconds after which the server itself cancels what is left; None when it waits for ever."""

    def select(self, records: list[R]) -> Iterator[tuple[R, Any]]:
        """Those of ``records`` that this server serves, each with its connection."""

    def unflushed(self) -> Iterable[tuple[Any, float]]:
        """Connections (and their grace) whose stream has ended, but whose peer has not taken all of it."""

    def abort(self, connection: Any) -> None:
        """Abort ``connection`` if its stream, or the rest of it, still holds it."""


class Stopping(Protocol):
    """What is made when a server begins to stop."""

    def __init__(self, server: Server) -> None: ...
    def begin(self) -> None: ...
    def end(self) -> None: ...


def watch(loop: asyncio.AbstractEventLoop, receive: Any, stopping: type[Stopping]) -> None:
    """See to it that ``stopping`` is used when the server that serves this loop begins to stop."""
    _watch_uvicorn(stopping)


# --- uvicorn ---


def find_cycle(receive: Any) -> Any | None:
    """The uvicorn RequestResponseCycle behind ``receive``, also through middleware that wraps it."""
    for _ in range(16):
        owner = getattr(receive, "__self__", None)
        if owner is not None and hasattr(owner, "on_response") and hasattr(owner, "transport"):
            return owner
        wrapped = _wrapped_receive(receive, owner)
        if wrapped is None:
            return None
        receive = wrapped
    return None


def _wrapped_receive(receive: Any, owner: Any) -> Any | None:
    """The ``receive`` that this one calls: an attribute of its object, a variable of its closure."""
    if isinstance(receive, functools.partial):
        return next((arg for arg in (*receive.args, receive.func) if callable(arg)), None)
    if owner is not None:
        for name in ("_receive", "receive"):
            inner = getattr(owner, "__dict__", {}).get(name)
            if callable(inner):
                return inner
    function = receive.__func__ if isinstance(receive, MethodType) else receive
    if isinstance(function, FunctionType) and function.__closure__:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__, strict=True):
            if "receive" in name:
                try:
                    inner = cell.cell_contents
                except ValueError:  # not yet assigned
                    continue
                if callable(inner):
                    return inner
    return None


def abort_cycle(cycle: Any) -> bool:
    """Abort the connection of a uvicorn cycle. False if that is not possible."""
    transport = getattr(cycle, "transport", None)
    if transport is None or not hasattr(transport, "abort"):
        return False
    transport.abort()
    return True


def waits_for_plain_futures(receive: Any) -> bool:
    """Whether ``receive()`` is a coroutine that needs no task: uvicorn's own, or a queue's ``get``."""
    if not isinstance(receive, MethodType):
        return False
    owner = receive.__self__
    return type(owner) is asyncio.Queue or (hasattr(owner, "on_response") and hasattr(owner, "message_event"))


# Cycles whose response has ended while the peer had not taken all of it, with the grace of their stream.
# The connection holds its last cycle and nothing else does, so an entry goes with the connection or its
# next request.
_unflushed: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()


def note_unflushed(receive: Any, grace: float) -> None:
    """Remember a finished response whose end still waits in the transport: its close may never come."""
    cycle = find_cycle(receive)
    size = getattr(getattr(cycle, "transport", None), "get_write_buffer_size", None)
    if size is not None and size():
        _unflushed[cycle] = grace


class UvicornServer:
    """A ``uvicorn.Server`` on its way out."""

    def __init__(self, server: Any) -> None:
        self._state = getattr(server, "server_state", None)
        # Past its own timeout uvicorn cancels tasks and logs errors, so ours have to be gone a little before.
        timeout = getattr(getattr(server, "config", None), "timeout_graceful_shutdown", None)
        self.limit: float | None = None if timeout is None else max(0.0, timeout - 0.2)

    def _connections(self) -> list[Any]:
        return list(getattr(self._state, "connections", ()))

    def select(self, records: list[R]) -> Iterator[tuple[R, Any]]:
        connections = self._connections()
        by_headers = {
            id(scope.get("headers")): protocol.cycle
            for protocol in connections
            if (scope := getattr(getattr(protocol, "cycle", None), "scope", None)) is not None
        }
        hidden, found = [], set()
        for record in records:
            # A middleware that hides the cycle behind its own receive still hands on the list of headers.
            cycle = find_cycle(record.receive) or by_headers.get(id(record.scope.get("headers")))
            if cycle is None:
                hidden.append(record)
            elif _server_state(cycle) is self._state:
                found.add(id(cycle))
                yield record, cycle
        # The rest cannot be told apart. If this server has responses that nobody claims, they may be among
        # them, and one that ends too early comes back while one that does not end keeps the server from
        # stopping.
        if hidden and any(
            id(cycle) not in found and not getattr(cycle, "response_complete", True)
            for protocol in connections
            if (cycle := getattr(protocol, "cycle", None)) is not None
        ):
            for record in hidden:
                yield record, None

    def unflushed(self) -> Iterator[tuple[Any, float]]:
        for protocol in self._connections():
            cycle = getattr(protocol, "cycle", None)
            if cycle is not None and (grace := _unflushed.get(cycle)) is not None:
                yield cycle, grace

    def abort(self, connection: Any) -> None:
        if connection is None:
            return
        # Once the response is complete the connection may have gone on to another request, which is not ours.
        if not connection.response_complete or any(
            getattr(protocol, "cycle", None) is connection for protocol in self._connections()
        ):
            abort_cycle(connection)


def _server_state(cycle: Any) -> Any | None:
    """The state of the server a running cycle belongs to."""
    return getattr(getattr(cycle.on_response, "__self__", None), "server_state", None)


_uvicorn_class: type | None = None


def _watch_uvicorn(stopping: type[Stopping]) -> None:
    """Wrap ``uvicorn.Server.shutdown``, once, if uvicorn is in this process."""
    global _uvicorn_class
    module = sys.modules.get("uvicorn.server")
    cls = getattr(module, "Server", None)
    if cls is None or cls is _uvicorn_class or not hasattr(cls, "shutdown"):
        return
    _uvicorn_class = cls
    shutdown: Callable[..., Awaitable[None]] = cls.shutdown

    @functools.wraps(shutdown)
    async def stop_streams_and_shutdown(self: Any, *args: Any, **kwargs: Any) -> None:
        streams = stopping(UvicornServer(self))
        # In the loop's next turn: by then uvicorn has closed its listeners, so no client comes back too
        # early.
        begin = asyncio.get_running_loop().call_soon(streams.begin)
        try:
            await shutdown(self, *args, **kwargs)
        finally:
            begin.cancel()
            streams.end()

    cls.shutdown = stop_streams_and_shutdown
