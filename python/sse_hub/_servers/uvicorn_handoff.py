"""uvicorn: which of its connections can be handed off, and how it lets one go.

A cycle writes through its own ``transport`` attribute. While a response is about to be handed off, that
attribute is a recorder (``sse_hub._handoff.recorder``), which sees the bytes of the wire whichever middleware
and HTTP implementation made them. uvicorn itself is not patched, and other requests do not pass through here.
"""

from __future__ import annotations

import asyncio
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

from starlette.types import Receive, Scope

from sse_hub import _core
from sse_hub._servers.stay import Stay
from sse_hub._servers.uvicorn import find_cycle, is_cycle

__all__ = [
    "after_request",
    "limits_concurrency",
    "reason_to_stay",
    "release",
    "say_left",
    "server_state",
    "serving_cycle",
    "take",
    "transport",
]

_FRAMES = 500  # more than any middleware stack has


def serving_cycle(scope: Scope, receive: Receive) -> Any | None:
    """The cycle that serves the request of ``scope``; None if there is none or it cannot be reached.

    It is found behind ``receive``, also through middleware, or else in the frames of the running task, at
    whose bottom a cycle calls the application, or of the tasks that wait for this one in a task group. A
    request that the application makes to itself inside the task has another scope, so a cycle counts only if
    it shares an object with this scope that is created for each request.
    """
    cycle = find_cycle(receive)
    if cycle is not None and _serves(cycle, scope):
        return cycle
    if "uvicorn.server" not in sys.modules:
        return None
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_FRAMES):
        if frame is None:
            break
        if (cycle := _cycle_in(frame, scope)) is not None:
            return cycle
        frame = frame.f_back
    for task in _waiting():
        frame = getattr(task.get_coro(), "cr_frame", None)
        if frame is not None and (cycle := _cycle_in(frame, scope)) is not None:
            return cycle
    return None


def _cycle_in(frame: FrameType, scope: Scope) -> Any | None:
    """The cycle that calls the application in this frame, if it serves the request of ``scope``."""
    if frame.f_code.co_name != "run_asgi":
        return None
    cycle = frame.f_locals.get("self")
    return cycle if is_cycle(cycle) and _serves(cycle, scope) else None


def _waiting() -> Iterator[asyncio.Task[Any]]:
    """The tasks that wait for the running one in a task group, from the inside out.

    ``BaseHTTPMiddleware`` runs the application in a task group of AnyIO, whose scopes know their tasks.
    """
    task = asyncio.current_task()
    states = getattr(sys.modules.get("anyio._backends._asyncio"), "_task_states", None)
    if task is None or not isinstance(states, Mapping):
        return  # another version of AnyIO
    scope = getattr(states.get(task), "cancel_scope", None)
    for _ in range(_FRAMES):
        if scope is None:
            break
        host = getattr(scope, "_host_task", None)
        if isinstance(host, asyncio.Task) and host is not task:
            yield host
        scope = getattr(scope, "_parent_scope", None)


def _serves(cycle: Any, scope: Scope) -> bool:
    own = cycle.scope
    if own is scope:
        return True
    # Middleware copies the scope, or replaces the headers or the state, but hardly ever both.
    for key in ("headers", "state"):
        value = own.get(key)
        if value is not None and value is scope.get(key):
            return True
    return False


def server_state(cycle: Any) -> Any:
    """The state of the server that a connected cycle belongs to."""
    return cycle.transport.get_protocol().server_state


def limits_concurrency(cycle: Any) -> bool:
    """Whether the cycle's server counts its connections against ``--limit-concurrency``."""
    return getattr(cycle.transport.get_protocol(), "limit_concurrency", None) is not None


def reason_to_stay(cycle: Any, transport: Any, *, encrypted: bool = False) -> Stay | None:
    """None if a cycle's connection carries one complete HTTP/1.1 request, this one, and nothing else.

    ``transport`` is the cycle's own, and ``encrypted`` says that it may be one that uvicorn encrypts.
    """
    scope = cycle.scope
    if cycle.disconnected or transport.is_closing():
        return Stay.CLIENT_LEFT
    if scope["http_version"] != "1.1":
        return Stay.HTTP_VERSION
    if scope["method"] in ("HEAD", "CONNECT"):
        return Stay.METHOD
    if cycle.waiting_for_100_continue:
        return Stay.EXPECT_CONTINUE
    if cycle.more_body or cycle.body:
        return Stay.REQUEST_BODY
    if not encrypted and transport.get_extra_info("sslcontext") is not None:
        return Stay.TLS
    if transport.get_extra_info("socket") is None:
        return Stay.SERVER
    if transport.get_write_buffer_size():
        return Stay.SLOW_CLIENT
    protocol = transport.get_protocol()
    if protocol.cycle is not cycle:
        return Stay.PIPELINED
    if hasattr(protocol, "pipeline"):  # httptools: a scope is made for each request as it begins
        is_last = not protocol.pipeline and protocol.scope is scope
    else:  # h11: what follows waits in its buffer
        is_last = not protocol.conn.trailing_data[0]
    return None if is_last else Stay.PIPELINED


def take(cycle: Any, first: bytes) -> int | tuple[Stay, bytes]:
    """Write ``first`` and take a connection that has no reason to stay from its server.

    The head does not say that the connection closes at the end (RFC 9112, 9.6): then Node's ``fetch`` would
    take a body that breaks off for a complete one, and a gap or a dead server for the end.

    Returns:
        A duplicate of the connection's descriptor; or the reason why the connection stays, and the part of
        ``first`` that is still unwritten.
    """
    try:
        descriptor = _core._duplicate(cycle.transport.get_extra_info("socket").fileno())
    except OSError:
        return Stay.DESCRIPTORS, first
    try:
        written = os.write(descriptor, first)
    except BlockingIOError:
        written = 0
    except OSError:
        _core._close(descriptor)
        return Stay.CLIENT_LEFT, first  # which the server learns from the same error
    except BaseException:
        _core._close(descriptor)
        raise
    if written < len(first):
        _core._close(descriptor)
        return Stay.SLOW_CLIENT, first[written:]
    # uvicorn's own state for a client that left: later sends are swallowed, nothing is logged, and the
    # connection is no longer counted. Its descriptor is closed; no FIN is sent while the duplicate is open.
    cycle.disconnected = True
    cycle.message_event.set()
    cycle.transport.abort()
    return descriptor


def transport(cycle: Any) -> Any:
    """The connection's own transport, below whatever records what the cycle writes."""
    return cycle.transport.get_protocol().transport


def release(cycle: Any, protocol: asyncio.Protocol) -> None:
    """Give a connection that has no reason to stay another protocol. To uvicorn it is lost.

    Later sends are swallowed, nothing is logged, and the connection is no longer counted. Because the reason
    is an error, uvicorn does not close the transport. It would close the cycle's after an exception of
    middleware, though the stream goes on.
    """
    connection = cycle.transport.get_protocol()
    connection.transport.set_protocol(protocol)
    cycle.transport = _Gone()
    connection.connection_lost(ConnectionAbortedError("handed off"))


class _Gone:
    """The transport of a cycle whose connection is gone."""

    def is_closing(self) -> bool:
        return True

    def write(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


def after_request(cycle: Any, then: Callable[[], None]) -> None:
    """Call ``then`` once the request of a released cycle has ended, in a copy of the present context.

    From then on the cycle's ``receive`` waits for the client again, for content that asks its request whether
    the client is connected. If the request's task is not this one, because middleware runs the application in
    another, ``then`` is called at once, and ``receive`` says that the client left.
    """

    def over(task: asyncio.Task[Any]) -> None:
        cycle.disconnected = False
        cycle.message_event.clear()
        then()

    task = asyncio.current_task()
    frame: FrameType | None = getattr(task and task.get_coro(), "cr_frame", None)
    is_own = frame is not None and frame.f_code.co_name == "run_asgi" and frame.f_locals.get("self") is cycle
    if task is not None and is_own:
        task.add_done_callback(over)
    else:
        then()


def say_left(cycle: weakref.ref[Any]) -> None:
    """Have the ``receive`` of a released cycle say that the client left, if anything still refers to it."""
    if (alive := cycle()) is not None:
        alive.disconnected = True
        alive.message_event.set()
