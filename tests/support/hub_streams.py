"""The two ways in which an endpoint streams a topic."""

from __future__ import annotations

from fastapi import FastAPI, Response
from sse_hub import EventSourceResponse, Hub


def add_streams(app: FastAPI, hub: Hub) -> None:
    """Stream the topic ``t`` at ``/response`` and at ``/subscription``."""

    @app.get("/response")
    async def response() -> Response:
        return hub.response("t")

    @app.get("/subscription")
    async def subscription() -> Response:
        return EventSourceResponse(hub.subscribe("t"))
