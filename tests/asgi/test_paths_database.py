"""A database session that a dependency holds goes back to its pool when a stream begins, on both paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from fastapi import Depends, FastAPI
from prices import GOLD, POOL, gold, held, pool, sessions, stream
from servers import Client, Command, granian, hypercorn, run
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from starlette.responses import Response
from waiting import PATIENCE, until
from wire import WAYS, Site

SITES = tuple(WAYS)
STREAMS = 100


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Prices in SQLite, and five connections to them."""
    engine = pool(tmp_path)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("kind", ["snapshot", "query", "subscription"])
def test_a_pool_of_five_serves_a_hundred_streams(site: Site, engine: Engine, kind: str) -> None:
    hub = site.hub()
    app = FastAPI()

    @app.get("/")
    def events(session: Session = Depends(sessions(engine))) -> Response:  # noqa: B008
        return stream(hub, kind, session)

    site.app = app
    with ExitStack() as stack:
        clients = []
        for _ in range(STREAMS // 10):  # ten at a time, so twice as many as there are connections
            clients += [stack.enter_context(site.raw()) for _ in range(10)]
            for client in clients[-10:]:
                client.opened()
        if kind == "snapshot":
            for client in clients:
                assert client.take(1) == [GOLD]
        until(lambda: held(engine) == 0)
        assert hub.count() == STREAMS
        assert {subscriber.path for subscriber in hub.subscribers()} == {site.path}
        hub.publish("t", "tick")
        for client in clients:
            assert client.take(1) == ["tick"]


def test_a_session_that_is_held_holds_its_connection(site: Site, engine: Engine) -> None:
    hub = site.hub()
    app = FastAPI()

    def session() -> Iterator[Session]:
        with Session(engine) as session:
            gold(session)
            yield session

    @app.get("/", dependencies=[Depends(session)])
    def events() -> Response:
        return hub.response("t", hold_dependencies=True)

    site.app = app
    with ExitStack() as stack:
        for _ in range(POOL):
            stack.enter_context(site.raw()).opened()
        assert held(engine) == POOL
    until(lambda: held(engine) == 0)


@pytest.mark.parametrize("server", [hypercorn, granian])
def test_a_pool_of_five_serves_a_hundred_streams_of_other_servers(server: Callable[[str], Command]) -> None:
    kinds = ("query", "snapshot", "subscription", "generator")
    with run(server("pool_app:app")) as process, ExitStack() as stack:

        def state() -> dict[str, object]:
            found: dict[str, object] = httpx.get(
                f"http://127.0.0.1:{process.port}/state", timeout=PATIENCE
            ).json()
            return found

        for kind in kinds:
            for _ in range(STREAMS // 4 // 5):
                clients = [stack.enter_context(Client(process.port, f"/{kind}")) for _ in range(5)]
                for client in clients:
                    client.read_until(b"stream-open")
            until(lambda: state()["held"] == 0)
        # A generator is no stream of the hub.
        assert state() == {"held": 0, "streams": STREAMS * 3 // 4, "stayed": {"server": STREAMS * 3 // 4}}
        said = re.findall(r"^INFO sse_hub (.*)$", process.output, re.MULTILINE)
        assert said == [
            "a stream stays with the server: the server is not a uvicorn whose connections are known here; "
            "see docs/hand-off.md"
        ]
