"""An app without streams: what other requests of a process cost, with and without sse_hub in it."""

import os

from fastapi import FastAPI

app = FastAPI()

if os.environ.get("BENCH_WITH_HUB"):
    from sse_hub import Hub
    from starlette.responses import Response

    hub = Hub()

    @app.get("/events")
    async def events() -> Response:
        return hub.response("prices")


@app.get("/ping")
async def ping() -> dict[str, str]:
    return {"pong": "x" * 64}
