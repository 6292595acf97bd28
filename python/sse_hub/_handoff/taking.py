"""How a response takes its server's offer to part with the connection, and what is said without room."""

from __future__ import annotations

import socket
from contextlib import suppress
from secrets import token_hex
from typing import TYPE_CHECKING

from starlette.types import Message, Scope, Send

from sse_hub._core import _release as release_descriptor
from sse_hub._handoff.offer import EXTENSION

if TYPE_CHECKING:
    from sse_hub._handoff.offer import Offer

__all__ = ["COME_BACK_LATER", "end_of_response", "end_on_socket", "find_offer", "take_socket"]

COME_BACK_LATER = b"retry: 30000\n\n"
"""What a browser is told that cannot be served now. Any status but 200 would stop it for good."""


def find_offer(scope: Scope) -> Offer | None:
    """The server's offer to part with the connection, if there is one that stands."""
    offer: Offer | None = (scope.get("extensions") or {}).get(EXTENSION)
    return offer if offer is not None and offer.is_open() else None


async def take_socket(offer: Offer, send: Send, start: Message) -> int | None:
    """Send the response's head and a first comment, and take the connection's descriptor.

    None when the server keeps the connection: the body goes on through ``send``.
    """
    # A nonce, so that only this response's bytes, unchanged by any middleware, are recognised.
    preamble = b": sse-hub %s\n\n" % token_hex(8).encode()
    offer.announce(preamble)
    await send(start)
    await send({"type": "http.response.body", "body": preamble, "more_body": True})
    return await offer.decision()


async def end_of_response(send: Send) -> None:
    """Goes nowhere, but middleware sees a complete response."""
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def end_on_socket(descriptor: int, last: bytes = b"") -> None:
    """Write ``last`` and the end of the body to a descriptor that was taken, and close it."""
    if not release_descriptor(descriptor):
        return  # a forked child, where it is closed
    chunk = b"%x\r\n%s\r\n" % (len(last), last) if last else b""
    with socket.socket(fileno=descriptor) as connection, suppress(OSError):
        connection.setblocking(False)
        connection.send(chunk + b"0\r\n\r\n")
