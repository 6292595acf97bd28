"""sse-starlette's module path: ``from sse_hub.sse import EventSourceResponse, AppStatus``."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from sse_hub._responses.event_stream import logger
from sse_hub._responses.sending import SendTimeoutError
from sse_hub._stopping.app_status import AppStatus
from sse_hub.event import JSONServerSentEvent, ServerSentEvent, ensure_bytes
from sse_hub.responses import (
    AsyncContentStream,
    Content,
    ContentStream,
    EventSourceResponse,
    SyncContentStream,
)

__all__ = [
    "AppStatus",
    "AsyncContentStream",
    "Content",
    "ContentStream",
    "EventSourceResponse",
    "JSONServerSentEvent",
    "SendTimeoutError",
    "ServerSentEvent",
    "SyncContentStream",
    "ensure_bytes",
    "logger",
]


@dataclass
class _ShutdownState:
    events: set[Any] = field(default_factory=set)
    watcher_started: bool = False


# Test fixtures of programs that used sse-starlette reset these between tests. Nothing here reads them.
_thread_state = threading.local()


def _get_shutdown_state() -> _ShutdownState:
    state = getattr(_thread_state, "shutdown_state", None)
    if not isinstance(state, _ShutdownState):
        state = _thread_state.shutdown_state = _ShutdownState()
    return state
