"""Streams whose endpoint has a database session from a pool of five, for servers other than uvicorn."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from announced import announced
from fastapi import Depends, FastAPI
from fastapi.responses import Response
from prices import GOLD, gold, held, pool, sessions, stream
from sqlalchemy.orm import Session
from sse_hub import EventSourceResponse, Hub

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
hub = Hub()
app = FastAPI(lifespan=announced([hub]))
engine = pool(Path(tempfile.mkdtemp()))
session = sessions(engine)


@app.get("/state")
async def state() -> dict[str, Any]:
    return {
        "held": held(engine),
        "streams": hub.count(),
        "stayed": hub.stats()["stayed"],
    }


@app.get("/{kind}")
def events(kind: str, session: Annotated[Session, Depends(session)]) -> Response:
    async def content() -> AsyncIterator[str]:
        yield "stream-open"
        await asyncio.get_running_loop().create_future()

    if kind != "generator":
        return stream(hub, kind, session)
    assert gold(session) == GOLD
    return EventSourceResponse(content(), handoff=True)
