"""What happens around a hub over a broker when event loops are closed, and when its process forks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from loops import on_each_loop
from redis_server import Proxy, RedisServer
from redis_workers import app_command
from servers import HOST, gunicorn, run, stopped
from sse_hub import Hub
from stores import Store
from waiting import PATIENCE, until, until_async
from wire import Stream


@contextmanager
def slow_answers(store: Store) -> Iterator[tuple[str, Any, Any]]:
    """A way to the store, and how its answers are held back and come."""
    if isinstance(store, RedisServer):
        with Proxy(store.port) as proxy:
            yield proxy.url, proxy.hold_replies, proxy.restore
    else:
        yield store.url, store.pause, store.resume


@on_each_loop
def test_a_loop_that_closes_while_a_publication_is_awaited(
    store: Store, capfd: pytest.CaptureFixture[str], new_loop: Any
) -> None:
    async def begin(awaitable: Any) -> Any:
        return next(awaitable.__await__())  # a future of this loop

    with slow_answers(store) as (url, hold, go_on), Hub(url) as hub:
        hub.publish("t", "all connections are made").result(PATIENCE)
        hold()
        published = hub.publish("t", 1)
        loop = new_loop()
        future = loop.run_until_complete(begin(published))
        assert not published.done()
        loop.close()
        go_on()
        until(published.done)
        # The second is reported when it is awaited, which is later; the report on the first is out.
        asyncio.run(asyncio.wait_for(hub.publish("t", 2), PATIENCE))
        assert not future.done()
    assert capfd.readouterr() == ("", "")


@on_each_loop
async def test_a_closed_loop_that_was_behind_does_not_stop_the_others(store: Store, new_loop: Any) -> None:
    async def begin(hub: Hub) -> Any:
        subscription = hub.subscribe("t")
        await anext(subscription)
        return subscription

    with Hub(store.url) as writer, Hub(store.url, backlog_bytes=1000) as hub:
        alive = await begin(hub)
        loop = new_loop()
        dead = await asyncio.to_thread(loop.run_until_complete, begin(hub))
        await until_async(lambda: hub.stats()["broker"] == "connected")
        for number in range(3):
            writer.publish("t", raw_data=f"{number}" * 400)
        await until_async(lambda: hub.stats()["backlog_bytes"] > 1000)
        loop.close()
        assert hub.count() == 2
        # Nothing in this process publishes or subscribes: its hub must notice on its own.
        writer.publish("t", raw_data="3" * 400)
        received = b""
        async with asyncio.timeout(PATIENCE):
            while b"3333" not in received:
                received += await anext(alive)
        assert [received.count(b"%d" % number * 400) for number in range(4)] == [1, 1, 1, 1]
        assert hub.count() == 1
        del dead


def test_a_server_preloaded_after_use(store: Store, tmp_path: Path) -> None:
    """``gunicorn --preload`` with an app that publishes when it is imported: workers are forked after use."""
    (app := tmp_path / "preloaded.py").write_text(
        "import redis_app\n"
        "redis_app.hubs['default'].publish('t', 'imported').result(5)\n"
        "app = redis_app.app\n"
    )
    command = gunicorn("preloaded:app", "--preload", processes=2)
    command.env = {**app_command().env, "SSE_HUB_URL": store.url}
    command.env["PYTHONPATH"] += f":{app.parent}"
    with (
        run(command) as server,
        httpx.Client(base_url=f"http://{HOST}:{server.port}", timeout=PATIENCE, trust_env=False) as http,
    ):
        clients = [Stream(server.port, "/default/events") for _ in range(4)]
        try:
            for client in clients:
                client.opened()
            http.headers["Connection"] = "close"
            (first,) = http.post("/default/publish", json=[1]).json()
            with stopped(first["pid"]):  # only the other worker accepts
                (second,) = http.post("/default/publish", json=[1]).json()
            assert first["pid"] != second["pid"]
            http.post("/default/publish", json=["end"])
            for client in clients:
                seen = []
                while "end" not in seen:
                    seen.append(client.event().json())
                assert {*seen} == {1, "end"}
            until(lambda: http.get("/default/presence").json()["count"] == 4)
        finally:
            for client in clients:
                client.close()
        server.terminate()
        server.wait()
        assert "Traceback" not in server.output
