"""How a response takes its connection from the server, and how it ends a descriptor without a reactor."""

from __future__ import annotations

import itertools
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from secrets import randbits
from typing import TypeVar

from starlette.types import Message, Receive, Scope, Send

from sse_hub._core import _release as release_descriptor
from sse_hub._handoff.attempt import Attempt
from sse_hub._handoff.gzip_body import gzip_header
from sse_hub._handoff.owned import OwnedConnection
from sse_hub._handoff.uvicorn import CycleConnection, DescriptorOf, TransportOf
from sse_hub._servers.stay import Stay
from sse_hub._servers.uvicorn_handoff import serving_cycle

__all__ = [
    "COME_BACK_LATER",
    "end_of_response",
    "end_on_socket",
    "is_refused_by_environment",
    "make_attempt",
    "make_transport_attempt",
    "take_socket",
]

T = TypeVar("T")
C = TypeVar("C", bound=CycleConnection)

COME_BACK_LATER = b"retry: 30000\n\n"
"""The body for a browser that cannot be served now. Any status but 200 would stop it for good."""

_nonces = itertools.count(randbits(63))  # from a random one on, so that no text holds one by accident


def is_refused_by_environment() -> bool:
    """Whether ``SSE_HUB_HANDOFF=0`` is set."""
    return os.environ.get("SSE_HUB_HANDOFF", "").lower() in ("0", "false", "no")


def make_attempt(scope: Scope, receive: Receive, *, insist: bool = False) -> Attempt[int] | Stay:
    """An attempt to take the descriptor that this response is written to, or the reason not to try.

    ``insist``: also from a server that limits its connections.
    """
    if sys.platform == "win32":
        return Stay.PLATFORM
    connection = _connection(scope, receive, DescriptorOf, insist)
    return connection if isinstance(connection, Stay) else Attempt(connection)


def make_transport_attempt(scope: Scope, receive: Receive) -> Attempt[OwnedConnection] | Stay:
    """The same for the transport, which the event loop keeps."""
    connection = _connection(scope, receive, TransportOf, True)
    return connection if isinstance(connection, Stay) else Attempt(connection)


def _connection(scope: Scope, receive: Receive, kind: type[C], insist: bool) -> C | Stay:
    if scope["type"] != "http":
        return Stay.METHOD
    cycle = serving_cycle(scope, receive)
    if cycle is None:
        return Stay.HIDDEN if "uvicorn.server" in sys.modules else Stay.SERVER
    connection = kind(cycle)
    stay = connection.reason_to_begin(insist)
    return connection if stay is None else stay


async def take_socket(
    attempt: Attempt[T],
    send: Send,
    start: Message,
    *,
    gzip: bool = False,
    late: Callable[[], None] | None = None,
) -> T | None:
    """Send the response's head and a first comment, and take the connection's descriptor or transport.

    With ``gzip`` the comment is in the header of a gzip body. None when the server keeps the connection: the
    body goes on through ``send``, which may still hold its beginning back when ``late`` is called.
    """
    # Only this response's bytes, unchanged by any middleware, are recognised.
    nonce = b"%016x" % next(_nonces)
    preamble = gzip_header(b"sse-hub " + nonce) if gzip else b": sse-hub %s\n" % nonce
    attempt.begin(preamble, gzip=gzip, late=late)
    try:
        await send(start)
        await send({"type": "http.response.body", "body": preamble, "more_body": True})
        return await attempt.decision()
    finally:
        attempt.end()


async def end_of_response(send: Send) -> None:
    """Send the end of the body. It goes nowhere, but middleware sees a complete response."""
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def end_on_socket(descriptor: int, last: bytes = b"") -> None:
    """Write ``last`` and the end of the body to a descriptor that was taken, and close it."""
    if not release_descriptor(descriptor):
        return  # a forked child, where it is closed
    chunk = b"%x\r\n%s\r\n" % (len(last), last) if last else b""
    with socket.socket(fileno=descriptor) as connection, suppress(OSError):
        connection.setblocking(False)
        # The FIN goes out with the end: a client that had the end alone would send its next request here.
        connection.send(chunk + b"0\r\n\r\n", getattr(socket, "MSG_MORE", 0))
