"""Prices in SQLite, and a pool of five connections to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool
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
