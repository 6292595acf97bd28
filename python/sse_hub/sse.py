"""sse-starlette's module path: ``from sse_hub.sse import EventSourceResponse, AppStatus``."""

from __future__ import annotations

from sse_hub._responses.event_stream import SendTimeoutError, logger
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
