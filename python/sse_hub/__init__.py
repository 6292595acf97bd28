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

from sse_hub._hub_response import HubResponse
from sse_hub.exceptions import (
    BrokerError,
    EventTooLarge,
    HubClosed,
    HubError,
    HubFull,
    InvalidEvent,
    OutcomeUnknown,
)
from sse_hub.hub import Hub, Publication, Subscription

__all__ = [
    "BrokerError",
    "EventTooLarge",
    "Hub",
    "HubClosed",
    "HubError",
    "HubFull",
    "HubResponse",
    "InvalidEvent",
    "OutcomeUnknown",
    "Publication",
    "Subscription",
]
