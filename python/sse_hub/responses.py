"""The responses: ``EventSourceResponse`` of sse-starlette's API, and ``HubResponse``."""

from sse_hub._responses.event_source_response import (
    AsyncContentStream,
    Content,
    ContentStream,
    EventSourceResponse,
    SyncContentStream,
)
from sse_hub._responses.hub_response import HubResponse

__all__ = [
    "AsyncContentStream",
    "Content",
    "ContentStream",
    "EventSourceResponse",
    "HubResponse",
    "SyncContentStream",
]
