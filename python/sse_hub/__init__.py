"""Server-Sent Events for FastAPI and Starlette, with a Rust core.

::

    from fastapi import FastAPI
    from sse_hub import Hub

    app = FastAPI()
    hub = Hub()

    @app.get("/events")
    async def events():
        return hub.response("prices")

    @app.post("/push")
    async def push(payload: dict):
        hub.publish("prices", payload, event="tick")
"""

from typing import TYPE_CHECKING

from sse_hub._ends import EndKind, EndReason
from sse_hub.brokers import FileBroker, RedisBroker
from sse_hub.event import JSONServerSentEvent, ServerSentEvent
from sse_hub.exceptions import (
    BrokerError,
    EventTooLarge,
    GapError,
    HubClosed,
    HubError,
    HubFull,
    InvalidEvent,
    LeaseLost,
    NotAuthorized,
    OutcomeUnknown,
    RunTooLarge,
    TooManyTopics,
    TopicEnded,
    UserFull,
)
from sse_hub.hub import Hub, Presence, Publication, Subscription
from sse_hub.responses import EventSourceResponse, HubResponse, last_event_id
from sse_hub.runs import Run, RunState

__all__ = [
    "BrokerError",
    "EndKind",
    "EndReason",
    "EventSourceResponse",
    "EventTooLarge",
    "FileBroker",
    "GapError",
    "Hub",
    "HubClosed",
    "HubError",
    "HubFull",
    "HubResponse",
    "InvalidEvent",
    "JSONServerSentEvent",
    "LeaseLost",
    "NotAuthorized",
    "OutcomeUnknown",
    "Presence",
    "Publication",
    "RedisBroker",
    "Run",
    "RunState",
    "RunTooLarge",
    "ServerSentEvent",
    "Subscription",
    "TooManyTopics",
    "TopicEnded",
    "UserFull",
    "last_event_id",
]

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # Not at import: reading the metadata takes milliseconds, and few programs ask for it.
        from importlib.metadata import version

        found = globals()["__version__"] = version("sse-hub")
        return found
