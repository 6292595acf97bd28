"""Streams whose endpoint has a database session from a pool of five, for servers other than uvicorn."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from announced import announced
from fastapi import Depends, FastAPI
from fastapi.responses import Response
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool
from sse_hub import EventSourceResponse, Hub

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
hub = Hub()
app = FastAPI(lifespan=announced([hub]))
engine = create_engine(
    f"sqlite:///{tempfile.mkdtemp()}/prices",
    poolclass=QueuePool,
    pool_size=5,
    max_overflow=0,
    pool_timeout=30,
    connect_args={"check_same_thread": False},
)
with engine.begin() as connection:
    connection.execute(text("CREATE TABLE prices (price REAL)"))
    connection.execute(text("INSERT INTO prices VALUES (2411.5)"))


def session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


def gold(session: Session) -> float:
    price: float = session.execute(text("SELECT price FROM prices")).scalar_one()
    return price


@app.get("/state")
async def state() -> dict[str, Any]:
    return {
        "held": engine.pool.checkedout(),  # type: ignore[attr-defined]
        "streams": hub.count(),
        "stayed": hub.stats()["stayed"],
    }


@app.get("/{kind}")
def events(kind: str, session: Annotated[Session, Depends(session)]) -> Response:
    async def content() -> AsyncIterator[str]:
        yield "stream-open"
        await asyncio.get_running_loop().create_future()

    if kind == "snapshot":
        return hub.response("t", initial=lambda _: asyncio.to_thread(gold, session))
    assert gold(session) == 2411.5
    if kind == "generator":
        return EventSourceResponse(content(), handoff=True)
    return EventSourceResponse(hub.subscribe("t")) if kind == "subscription" else hub.response("t")
