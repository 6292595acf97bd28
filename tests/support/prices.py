"""Prices in SQLite, a pool of five connections to them, and streams that begin with a price."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool
from sse_hub import EventSourceResponse, Hub
from starlette.responses import Response
from waiting import PATIENCE

GOLD = 2411.5
POOL = 5


def pool(directory: Path) -> Engine:
    """An engine over a new database in ``directory``."""
    engine = create_engine(
        f"sqlite:///{directory / 'prices'}",
        poolclass=QueuePool,
        pool_size=POOL,
        max_overflow=0,
        pool_timeout=PATIENCE,
        connect_args={"check_same_thread": False},
    )
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE prices (price REAL)"))
        connection.execute(text("INSERT INTO prices VALUES (:gold)"), {"gold": GOLD})
    return engine


def held(engine: Engine) -> int:
    """How many of its connections are in use."""
    count: int = engine.pool.checkedout()  # type: ignore[attr-defined]
    return count


def sessions(engine: Engine) -> Callable[[], Iterator[Session]]:
    """A dependency that gives a session and closes it."""

    def session() -> Iterator[Session]:
        with Session(engine) as session:
            yield session

    return session


def gold(session: Session) -> float:
    """The price; from now on the session has a connection."""
    price: float = session.execute(text("SELECT price FROM prices")).scalar_one()
    return price


def stream(hub: Hub, kind: str, session: Session) -> Response:
    """A stream whose endpoint reads the price before it begins; a ``snapshot``, as the stream begins."""
    if kind == "snapshot":
        # Not on the event loop: it would wait for connections that are given back there.
        return hub.response("t", initial=lambda _: asyncio.to_thread(gold, session))
    assert gold(session) == GOLD
    return EventSourceResponse(hub.subscribe("t")) if kind == "subscription" else hub.response("t")
