"""uvicorn: which of its connections can be handed off, and how it lets one go."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

from starlette.types import Receive, Send

from sse_hub import _core
from sse_hub._servers.uvicorn import is_cycle

__all__ = ["can_leave", "duplicate", "is_flushed", "let_go", "server_state", "straight_cycle"]

logger = logging.getLogger("sse_hub")

_FLUSH = 1.0  # seconds the kernel may take to accept head and preamble, else the client is too slow

# What stands around the middleware added last: errors, the limit of the request's body, telemetry. All of it
# passes a response's messages on unchanged.
_FRAMEWORK = {
    "fastapi._body_limit",
    "fastapi.telemetry._asgi",
    "starlette.middleware.body_limit",
    "starlette.middleware.errors",
}


def straight_cycle(function: Receive | Send, name: str) -> Any | None:
    """The cycle whose ``send`` or ``receive`` this is, wrapped by nothing but the framework itself."""
    current: Any = function
    for _ in range(8):
        owner = getattr(current, "__self__", None)
        if is_cycle(owner):
            return owner
        if getattr(current, "__module__", None) not in _FRAMEWORK:
            return None
        if owner is not None:
            current = getattr(owner, name, None)
        else:
            names = current.__code__.co_freevars
            current = current.__closure__[names.index(name)].cell_contents if name in names else None
    return None


def server_state(cycle: Any) -> Any:
    """The state of the server that a connected cycle belongs to."""
    return cycle.transport.get_protocol().server_state


def can_leave(cycle: Any) -> bool:
    """Whether a cycle's connection carries one complete HTTP/1.1 request, this one, and nothing else."""
    transport, scope = cycle.transport, cycle.scope
    if sys.platform == "win32" or transport.is_closing():
        return False
    if scope["http_version"] != "1.1" or scope["method"] in ("HEAD", "CONNECT"):
        return False
    if cycle.disconnected or cycle.response_complete or cycle.waiting_for_100_continue:
        return False
    if cycle.more_body or cycle.body:
        return False
    if transport.get_extra_info("sslcontext") is not None or transport.get_extra_info("socket") is None:
        return False
    protocol = transport.get_protocol()
    if protocol.cycle is not cycle:
        return False
    if hasattr(protocol, "pipeline"):  # httptools: a scope is made for each request as it begins
        return not protocol.pipeline and protocol.scope is scope
    received, _ = protocol.conn.trailing_data  # h11: what follows waits in its buffer
    return not received


async def is_flushed(cycle: Any) -> bool:
    """Wait until the kernel has accepted everything that was sent; False when that takes too long."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _FLUSH
    transport = cycle.transport
    delay = 0.0
    while transport.get_write_buffer_size():
        if transport.is_closing() or loop.time() > deadline:
            return False
        # uvloop writes at the end of the loop's turn; what does not fit then, waits for the client.
        await asyncio.sleep(delay)
        delay = min(0.05, 2 * delay or 0.001)
    return True


def duplicate(cycle: Any) -> int | None:
    """A duplicate of the connection's descriptor; None when the process has no descriptor left (EMFILE)."""
    global _logged_no_descriptor
    try:
        return _core._duplicate(cycle.transport.get_extra_info("socket").fileno())
    except OSError as error:
        if not _logged_no_descriptor:
            _logged_no_descriptor = True
            logger.debug("a stream stays with its server, as will others: %s", error)
        return None


_logged_no_descriptor = False


def let_go(cycle: Any) -> None:
    """Have the server forget a connection of which there is a duplicate."""
    # uvicorn's own state for a client that left: later sends are swallowed, nothing is logged, and the
    # connection is no longer counted. Its descriptor is closed; no FIN is sent while there is another.
    cycle.disconnected = True
    cycle.message_event.set()
    cycle.transport.abort()
