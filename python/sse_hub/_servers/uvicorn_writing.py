"""Writes a body's chunks to uvicorn's connection, past everything between the response and uvicorn.

uvicorn's ``send`` frames each message as a chunk and passes it to the transport. ``_core.Pump`` does the same
without a message and without a call into Python for each event. That is only correct if every wrapper around
``send`` is known to pass the messages of a body on unchanged, and to keep no account of them.
"""

from __future__ import annotations

import functools
from types import CodeType, FunctionType, MethodType
from typing import Any, TypeAlias

from starlette.types import Message, Receive, Send

from sse_hub._servers.uvicorn import find_cycle

__all__ = ["ChunkedConnection", "begin", "connection_of", "socket_of"]

ChunkedConnection: TypeAlias = tuple[Any, Any, int | None, bytes]
"""The transport, flow control and socket of a response whose body goes out in chunks.

And the response's head, if it was not written: it has to go out with the first chunk, or before.
"""

# By the names of their code, which `functools.wraps` does not copy: a wrapper's module and function, and the
# variable that holds the `send` it wraps.
_TRANSPARENT = {
    ("starlette._exception_handler", "wrap_app_handling_exceptions.<locals>.wrapped_app.<locals>.sender"),
    ("starlette.middleware.errors", "ServerErrorMiddleware.__call__.<locals>._send"),
    ("starlette.middleware.cors", "CORSMiddleware.send"),
    ("starlette.middleware.sessions", "SessionMiddleware.__call__.<locals>.send_wrapper"),
}
# The codes of such wrappers that were seen, by their `id`, each with the place of `send` among its variables.
_wrappers: dict[int, tuple[CodeType, int]] = {}


def connection_of(receive: Receive, send: Send) -> ChunkedConnection | None:
    """The transport, flow control and socket of a response whose head was sent.

    None if the body has to go through ``send``. The socket is None if the transport's bytes are not those on
    the wire: then only the transport writes.
    """
    cycle = _writing_cycle(receive, send)
    if cycle is None or not _is_chunked(cycle):
        return None
    return cycle.transport, cycle.flow, socket_of(cycle.transport), b""


async def begin(receive: Receive, send: Send, start: Message) -> ChunkedConnection | None:
    """Send a response's head, and return the same. Then the head is still unwritten.

    None if the body has to go through ``send``. Then the head was written.
    """
    cycle = _writing_cycle(receive, send)
    if cycle is None:
        await send(start)
        return None
    if cycle.flow.write_paused:
        await send(start)
        return connection_of(receive, send)
    # Nothing on the way waits, so nobody else meets what stands in for the transport.
    transport = cycle.transport
    cycle.transport = head = _Head(transport)
    try:
        await send(start)
        if _is_chunked(cycle):
            return transport, cycle.flow, socket_of(transport), head.take()
    finally:
        cycle.transport = transport
        if unwritten := head.take():
            transport.write(unwritten)
    return None


class _Head:
    """Stands in for a cycle's transport while a head is sent, and keeps what is written."""

    __slots__ = ("_held", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._held = b""

    def write(self, data: bytes) -> None:
        self._held += data

    def take(self) -> bytes:
        held, self._held = self._held, b""
        return held

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _writing_cycle(receive: Receive, send: Send) -> Any | None:
    """The cycle of a response if messages of a body reach it unchanged, and its parts are known here."""
    cycle = find_cycle(receive)
    if cycle is None or _sender(send) is not cycle:
        return None
    transport = cycle.transport
    wanted = ("is_closing", "get_write_buffer_size", "write", "get_extra_info")
    is_known = hasattr(getattr(cycle, "flow", None), "write_paused")
    return cycle if is_known and all(hasattr(transport, name) for name in wanted) else None


def _sender(send: Any) -> Any:
    """The object whose ``send`` receives the messages; None behind an unknown wrapper."""
    for _ in range(32):
        if type(send) is FunctionType:
            place, cells = _place(send), send.__closure__
            if place is None or cells is None:
                return None
            send = cells[place].cell_contents
        elif isinstance(send, functools.partial):
            if not _is_transparent(getattr(send.func, "__func__", None)):
                return None
            send = send.keywords.get("send")
        elif isinstance(send, MethodType):
            code = getattr(send.__func__, "__code__", None)
            is_uvicorn = send.__func__.__globals__.get("__name__", "").startswith("uvicorn.protocols.http.")
            return send.__self__ if is_uvicorn and code and code.co_name == "send" else None
        else:
            return None
    return None


def _place(wrapper: FunctionType) -> int | None:
    """The place of ``send`` among the variables of a wrapper that passes a body on; None for any other."""
    code = wrapper.__code__
    known = _wrappers.get(id(code))
    if known is not None:
        return known[1]
    if not _is_transparent(wrapper) or "send" not in code.co_freevars:
        return None
    place = code.co_freevars.index("send")
    _wrappers[id(code)] = code, place  # with the code, whose id no other has then
    return place


def _is_transparent(function: Any) -> bool:
    if not isinstance(function, FunctionType):
        return False
    return (function.__globals__.get("__name__"), function.__code__.co_qualname) in _TRANSPARENT


def _is_chunked(cycle: Any) -> bool:
    """Whether a body in chunks follows: both of uvicorn's implementations know once the head was sent."""
    if not getattr(cycle, "response_started", False) or getattr(cycle, "response_complete", True):
        return False
    if hasattr(cycle, "chunked_encoding"):  # httptools
        return cycle.chunked_encoding is True
    writer = getattr(getattr(cycle, "conn", None), "_writer", None)  # h11
    return type(writer).__name__ == "ChunkedWriter"


def socket_of(transport: Any) -> int | None:
    """The descriptor of a transport; None if its bytes are not those on the wire."""
    try:
        if transport.get_extra_info("sslcontext") is not None:
            return None
        descriptor: int = transport.get_extra_info("socket").fileno()
    except Exception:  # another kind of transport
        return None
    return descriptor if descriptor >= 0 else None
