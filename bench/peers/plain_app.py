"""An app without streams: what other requests of a process cost, with and without sse_hub in it.

Both have the same routes: an endpoint more in front of the other costs its requests more than an import can.
"""

import os

from fastapi import FastAPI
from starlette.responses import Response

app = FastAPI()


@app.get("/ping")
async def ping() -> dict[str, str]:
    return {"pong": "x" * 64}


if os.environ.get("BENCH_WITH_HUB"):
    from sse_hub import Hub

    hub = Hub()


@app.get("/events")
async def events() -> Response:
    return hub.response("prices")
