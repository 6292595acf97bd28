"""What an event stream needs of its response."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine
from typing import Any, Protocol

import anyio
from starlette.types import Message

__all__ = ["Streamed"]


class Streamed(Protocol):
    """What a stream needs of its response. Attributes without an underscore may be assigned while it runs."""

    active: bool
    body_iterator: AsyncIterable[Any]
    client_close_handler_callable: Callable[[Message], Awaitable[None]] | None
    data_sender_callable: Callable[[], Coroutine[None, None, None]] | None
    ping_message_factory: Callable[[], Any] | None
    send_timeout: float | None
    sep: str
    _cleanup_timeout: float | None
    _pings: bool
    _shutdown_event: anyio.Event | None
    _shutdown_grace_period: float

    @property
    def ping_interval(self) -> int | float: ...
