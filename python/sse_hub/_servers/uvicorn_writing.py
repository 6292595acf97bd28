"""Writes a body's chunks to uvicorn's connection, past everything between the response and uvicorn.

uvicorn's ``send`` frames each message as a chunk and passes it to the transport. ``_core.Pump`` does the same
without a message and without a call into Python for each event. That is only correct if every wrapper around
``send`` is known to pass the messages of a body on unchanged, and to keep no account of them.
"""

from __future__ import annotations

import functools
from types import FunctionType, MethodType
from typing import Any, TypeAlias

from starlette.types import Receive, Send

from sse_hub._servers.uvicorn import find_cycle

__all__ = ["ChunkedConnection", "connection_of", "socket_of"]

ChunkedConnection: TypeAlias = tuple[Any, Any, int | None]
"""The transport, flow control and socket of a response whose body goes out in chunks."""

# By the names of their code, which `functools.wraps` does not copy: a wrapper's module and function, and the
# variable that holds the `send` it wraps.
_TRANSPARENT = {
    ("starlette._exception_handler", "wrap_app_handling_exceptions.<locals>.wrapped_app.<locals>.sender"),
    ("starlette.middleware.errors", "ServerErrorMiddleware.__call__.<locals>._send"),
    ("starlette.middleware.cors", "CORSMiddleware.send"),
    ("starlette.middleware.sessions", "SessionMiddleware.__call__.<locals>.send_wrapper"),
}


def connection_of(receive: Receive, send: Send) -> ChunkedConnection | None:
    """The transport, flow control and socket of a response whose head was sent.

    None if the body has to go through ``send``. The socket is None if the transport's bytes are not those on
    the wire: then only the transport writes.
    """
    cycle = find_cycle(receive)
    if cycle is None or _sender(send) is not cycle or not _is_chunked(cycle):
        return None
    transport, flow = cycle.transport, getattr(cycle, "flow", None)
    wanted = ("is_closing", "get_write_buffer_size", "write", "get_extra_info")
    if not (hasattr(flow, "write_paused") and all(hasattr(transport, name) for name in wanted)):
        return None
    return transport, flow, socket_of(transport)


def _sender(send: Any) -> Any:
    """The object whose ``send`` receives the messages; None behind an unknown wrapper."""
    for _ in range(32):
        if isinstance(send, functools.partial):
            if not _is_transparent(getattr(send.func, "__func__", None)):
                return None
            send = send.keywords.get("send")
        elif isinstance(send, MethodType):
            code = getattr(send.__func__, "__code__", None)
            is_uvicorn = send.__func__.__globals__.get("__name__", "").startswith("uvicorn.protocols.http.")
            return send.__self__ if is_uvicorn and code and code.co_name == "send" else None
        elif _is_transparent(send):
            send = _variable(send, "send")
        else:
            return None
    return None


def _is_transparent(function: Any) -> bool:
    if not isinstance(function, FunctionType):
        return False
    return (function.__globals__.get("__name__"), function.__code__.co_qualname) in _TRANSPARENT


def _variable(function: FunctionType, name: str) -> Any:
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if variable == name:
            return cell.cell_contents
    return None


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
