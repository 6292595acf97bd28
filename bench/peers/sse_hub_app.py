"""What sse-hub's apps have in common, in process and over Redis; how they publish is their own."""

from fastapi import FastAPI, Response
from sse_hub import Hub


def serving(hub: Hub) -> FastAPI:
    """An app with the hub's streams, its count and an endpoint that has nothing to do with them."""
    app = FastAPI()

    @app.get("/events")
    async def events(rate: float | None = None, compress: bool = False) -> Response:
        return hub.response("bench", rate=rate, compress=compress)

    @app.get("/count")
    async def count() -> dict[str, int]:
        return {"count": hub.count()}

    @app.get("/ping")
    async def ping() -> dict[str, bool]:
        return {"pong": True}

    return app
