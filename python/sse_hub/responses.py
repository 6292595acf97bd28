"""The responses, and what they read from a request."""

from sse_hub._responses.client_script import ClientScript
from sse_hub._responses.event_source_response import (
    AsyncContentStream,
    Content,
    ContentStream,
    EventSourceResponse,
    SyncContentStream,
)
from sse_hub._responses.hub_response import HubResponse
from sse_hub._responses.last_event_id import last_event_id

__all__ = [
    "AsyncContentStream",
    "ClientScript",
    "Content",
    "ContentStream",
    "EventSourceResponse",
    "HubResponse",
    "SyncContentStream",
    "last_event_id",
]
