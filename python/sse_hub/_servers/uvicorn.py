"""uvicorn, also under gunicorn with uvicorn's worker class: how its servers stop, and their connections.

uvicorn keeps a ``server_state`` per server, whose ``connections`` are protocol objects. Each has its latest
request as ``cycle``, and a cycle's bound methods are the application's ``receive`` and ``send``.
``Server.shutdown`` closes the listeners, waits for the connections and tasks, then runs the lifespan's
shutdown; it is wrapped once per process.
"""

from __future__ import annotations

import asyncio
import functools
import select
import socket
import struct
import sys
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from types import MethodType, ModuleType
from typing import Any, TypeVar

from starlette.types import Receive

from sse_hub import _core
from sse_hub._servers.base import NewStopping, Record, frames, owners, select_by_headers

__all__ = [
    "UvicornServer",
    "abort_cycle",
    "find_cycle",
    "is_cycle",
    "note_unflushed",
    "progress",
    "tell_of_loss",
    "unsent",
    "watch",
    "workers",
]

R = TypeVar("R", bound=Record)


_LOOK = 0.5  # seconds between two looks whether a client that nothing is read from has left

_cycles: set[type] = set()  # the classes of uvicorn's cycles that were seen


def is_cycle(owner: object) -> bool:
    """Whether ``owner`` is a uvicorn RequestResponseCycle, of whichever HTTP implementation."""
    kind = type(owner)
    if kind in _cycles:
        return True
    if not all(hasattr(owner, name) for name in ("on_response", "message_event", "transport")):
        return False
    if kind.__module__.startswith("uvicorn."):
        _cycles.add(kind)
    return True


def find_cycle(receive: Receive) -> Any | None:
    """The uvicorn cycle behind ``receive``, also through middleware that wraps it; None if there is none."""
    if isinstance(receive, MethodType) and type(receive.__self__) in _cycles:
        return receive.__self__
    return next((owner for owner in owners(receive, "receive") if is_cycle(owner)), None)


def workers(receive: Receive) -> int | None:
    """How many worker processes the server behind ``receive`` has; None if it is not uvicorn."""
    transport: Any = getattr(find_cycle(receive), "transport", None)
    protocol = transport.get_protocol() if hasattr(transport, "get_protocol") else None
    config = getattr(protocol, "config", None)
    # gunicorn's worker class gives uvicorn a method of its own, and has gunicorn's settings.
    worker = getattr(getattr(config, "callback_notify", None), "__self__", None)
    for settings in (getattr(worker, "cfg", None), config):
        number = getattr(settings, "workers", None)
        if isinstance(number, int):
            return number
    return None


def abort_cycle(cycle: Any) -> bool:
    """Abort a cycle's connection; False if that is not possible."""
    transport: Any = getattr(cycle, "transport", None)
    if not hasattr(transport, "abort"):
        return False
    if unsent(cycle) != 0:
        _reset_on_close(transport)
    transport.abort()
    return True


def _reset_on_close(transport: Any) -> None:
    """Make the close send a reset: a FIN would wait behind data that the client does not accept."""
    with suppress(Exception):  # a transport without a socket, or a socket that is closed
        linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def unsent(cycle: Any) -> int | None:
    """How many of the bytes that a cycle wrote its client has not acknowledged; None if that is unknown."""
    try:
        waiting: int = cycle.transport.get_write_buffer_size()
        unacknowledged = _core._unacknowledged(cycle.transport.get_extra_info("socket").fileno())
    except Exception:  # another kind of transport, or one that has lost its connection
        return None
    return waiting + (unacknowledged or 0)


def progress(cycle: Any) -> tuple[int, int | None] | None:
    """What ``unsent`` says, and how many bytes its client has acknowledged; None if that is unknown."""
    left = unsent(cycle)
    if left is None:
        return None
    return left, _core._acknowledged(cycle.transport.get_extra_info("socket").fileno())


# Cycles whose response has ended before the peer accepted all of it, with the grace of their stream. Only the
# connection holds its last cycle, so an entry goes with the connection or its next request.
_unflushed: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()


def note_unflushed(receive: Receive, grace: float) -> None:
    """Remember a finished response whose end still waits in the transport, which may never close."""
    cycle = find_cycle(receive)
    if cycle is not None and _waits_to_be_written(cycle.transport):
        _unflushed[cycle] = grace


def _waits_to_be_written(transport: Any) -> bool:
    try:
        return bool(transport.get_write_buffer_size())
    except Exception:  # asyncio's TLS transport has lost its protocol once the connection is gone
        return False


def tell_of_loss(cycle: Any) -> None:
    """Have a cycle with a stream learn that its connection was lost, whatever its client has sent since.

    uvicorn stops reading at the next request of a client. From then on only a write would show that the
    client left, and with TLS on asyncio's loop not even that. And with httptools a connection tells only its
    last cycle, which is that of the next request.
    """
    flow: Any = getattr(cycle, "flow", None)
    if all(hasattr(flow, name) for name in _FLOW):
        loss = _Loss(flow, cycle)
        flow.pause_reading = loss.pause_reading
        flow.resume_writing = loss.resume_writing  # what a lost connection calls, too
        loss.look()


_FLOW = ("pause_reading", "read_paused", "resume_reading", "resume_writing")


class _Loss:
    """Stands in for two methods of a connection's flow control while one of its cycles has a stream."""

    __slots__ = ("_cycle", "_flow", "_timer")

    def __init__(self, flow: Any, cycle: Any) -> None:
        self._flow = weakref.ref(flow)
        self._cycle = weakref.ref(cycle)
        self._timer: asyncio.TimerHandle | None = None

    def pause_reading(self) -> None:
        if (flow := self._flow()) is not None:
            type(flow).pause_reading(flow)
            self.look()

    def resume_writing(self) -> None:
        if (flow := self._flow()) is not None:
            type(flow).resume_writing(flow)
            self.look()

    def look(self) -> None:
        """Tell the cycle if its connection is lost; look again later as long as nothing is read from it."""
        flow, cycle = self._flow(), self._cycle()
        if flow is None or cycle is None or cycle.response_complete or cycle.disconnected:
            return
        if cycle.transport.is_closing():
            cycle.disconnected = True
            cycle.message_event.set()
        elif flow.read_paused and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        flow, cycle = self._flow(), self._cycle()
        if flow is not None and flow.read_paused and _is_shut(getattr(cycle, "transport", None)):
            flow.resume_reading()  # the transport comes to the end, and says so
        self.look()


def _is_shut(transport: Any | None) -> bool:
    """Whether the peer of a connection has shut its side."""
    if transport is None or not hasattr(select, "poll"):  # Windows has none
        return False
    try:
        poll = select.poll()
        poll.register(transport.get_extra_info("socket").fileno(), getattr(select, "POLLRDHUP", 0))
        return bool(poll.poll(0))
    except Exception:  # another kind of transport, or one that has lost its connection
        return False


class UvicornServer:
    """A ``uvicorn.Server`` that begins to stop. A connection is its cycle."""

    def __init__(self, server: Any) -> None:
        self.state: Any | None = getattr(server, "server_state", None)
        # Past its own timeout uvicorn cancels tasks and logs errors, so streams have to be gone before.
        timeout = getattr(getattr(server, "config", None), "timeout_graceful_shutdown", None)
        self.limit: float | None = None if timeout is None else max(0.0, timeout - 0.2)

    def _cycles(self) -> Iterator[Any]:
        for protocol in list(getattr(self.state, "connections", ())):
            cycle = getattr(protocol, "cycle", None)
            if cycle is not None:
                yield cycle

    def select(self, records: list[R]) -> Iterator[tuple[R, Any]]:
        open_responses = {
            id(cycle.scope.get("headers")): cycle for cycle in self._cycles() if not cycle.response_complete
        }
        rest: list[R] = []
        for record in records:
            cycle = find_cycle(record.receive)
            if cycle is None:
                rest.append(record)
            elif _server_state(cycle) is self.state:
                open_responses.pop(id(cycle.scope.get("headers")), None)
                yield record, cycle
        yield from select_by_headers(rest, open_responses)

    def unflushed(self) -> Iterator[tuple[Any, float]]:
        for cycle in self._cycles():
            if (grace := _unflushed.get(cycle)) is not None:
                yield cycle, grace

    def is_last(self) -> bool:
        for frame in frames(asyncio.get_running_loop(), "uvicorn", "serve"):
            server: Any = frame.f_locals.get("self")
            is_other = getattr(server, "server_state", self.state) is not self.state
            if is_other and not getattr(server, "should_exit", True):
                return False
        return True

    def hold(self, task: asyncio.Task[None]) -> None:
        tasks = getattr(self.state, "tasks", set[Any]())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def abort(self, connections: list[Any]) -> None:
        latest = set(map(id, self._cycles()))
        for cycle in connections:
            # Once its response is complete, a connection that went on to another request is no longer ours.
            if cycle is not None and (not cycle.response_complete or id(cycle) in latest):
                abort_cycle(cycle)


def _server_state(cycle: Any) -> Any | None:
    """The state of the server that a running cycle belongs to."""
    return getattr(getattr(cycle.on_response, "__self__", None), "server_state", None)


# The classes whose ``shutdown`` is wrapped, each with an object of the thread that did it: only one does.
_wrapped: dict[type, object] = {}
# The loops that were searched for a server whose stop had begun by then. Servers may run in several threads.
_searched: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def watch(module: ModuleType, loop: asyncio.AbstractEventLoop, stopping: NewStopping) -> None:
    """Wrap ``Server.shutdown`` of ``module`` (``uvicorn.server``), once."""
    cls: Any = getattr(module, "Server", None)
    if cls not in _wrapped:
        mine = object()
        if not hasattr(cls, "shutdown"):
            return
        if _wrapped.setdefault(cls, mine) is mine:
            _wrap(cls, stopping)
    if loop in _searched:
        return
    _searched.add(loop)
    # The first stream of a loop may begin when its server is already stopping, and before that was noticed.
    for frame in frames(loop, "uvicorn", "shutdown"):
        server: Any = frame.f_locals.get("self")
        if isinstance(server, cls) and not hasattr(server, "_sse_hub_streams"):
            streams = stopping(UvicornServer(server))
            server._sse_hub_streams = streams  # as long as the server, so that later streams find it too
            loop.call_soon(streams.begin)


def _wrap(cls: Any, stopping: NewStopping) -> None:
    shutdown: Callable[..., Awaitable[None]] = cls.shutdown

    @functools.wraps(shutdown)
    async def stop_streams_and_shutdown(self: Any, *args: Any, **kwargs: Any) -> None:
        self._sse_hub_streams = streams = stopping(UvicornServer(self))
        # In the loop's next turn: by then uvicorn has closed its listeners, so no client comes back too
        # early.
        asyncio.get_running_loop().call_soon(streams.begin)
        try:
            await shutdown(self, *args, **kwargs)
        finally:
            streams.end()

    cls.shutdown = stop_streams_and_shutdown
