"""How a response takes its connection from the server, and how it ends a descriptor without a reactor."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from secrets import token_hex

from starlette.types import Message, Receive, Scope, Send

from sse_hub._core import _release as release_descriptor
from sse_hub._handoff.attempt import Attempt
from sse_hub._handoff.uvicorn import CycleConnection
from sse_hub._servers.stay import Stay
from sse_hub._servers.uvicorn_handoff import serving_cycle

__all__ = ["COME_BACK_LATER", "end_of_response", "end_on_socket", "make_attempt", "take_socket"]

COME_BACK_LATER = b"retry: 30000\n\n"
"""The body for a browser that cannot be served now. Any status but 200 would stop it for good."""


def make_attempt(scope: Scope, receive: Receive, *, insist: bool = False) -> Attempt | Stay:
    """An attempt to take the connection that this response runs on, or the reason not to try.

    ``insist``: also from a server that limits its connections.
    """
    if sys.platform == "win32":
        return Stay.PLATFORM
    if scope["type"] != "http":
        return Stay.METHOD
    cycle = serving_cycle(scope, receive)
    if cycle is None:
        return Stay.HIDDEN if "uvicorn.server" in sys.modules else Stay.SERVER
    connection = CycleConnection(cycle)
    if (stay := connection.reason_to_begin(insist)) is not None:
        return stay
    return Attempt(connection)


async def take_socket(attempt: Attempt, send: Send, start: Message) -> int | None:
    """Send the response's head and a first comment, and take the connection's descriptor.

    None when the server keeps the connection: the body goes on through ``send``.
    """
    # A nonce, so that only this response's bytes, unchanged by any middleware, are recognised.
    preamble = b": sse-hub %s\n" % token_hex(8).encode()
    attempt.begin(preamble)
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
        connection.send(chunk + b"0\r\n\r\n")
