"""Content that runs its event loop in a step of its own, as nest_asyncio has it done."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI
from let_go import client
from live import serve
from sse_hub import EventSourceResponse
from waiting import PATIENCE

HANDOFF = pytest.mark.parametrize("handoff", [None, True])


def run_nested(is_over: Callable[[], bool]) -> int:
    """Run the loop within a step of the present task until ``is_over``; returns how many turns that took."""
    loop: Any = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    limit, turns = loop.time() + PATIENCE, 0
    asyncio.tasks._leave_task(loop, task)
    try:
        while not is_over():
            waking = loop.call_later(1, lambda: None)
            loop._run_once()
            waking.cancel()
            turns += 1
            assert loop.time() < limit
    finally:
        asyncio.tasks._enter_task(loop, task)
    return turns


def run_for(seconds: float) -> int:
    passed: list[None] = []
    asyncio.get_running_loop().call_later(seconds, passed.append, None)
    return run_nested(lambda: bool(passed))


def next_turn() -> Awaitable[None]:
    """What is done in the loop's next turn, as by another task."""
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, None)
    return future


def app_with(content: Callable[[], Any], handoff: bool | None, ping: float = 0) -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def events() -> EventSourceResponse:
        return EventSourceResponse(content(), ping=ping, sep="\n", handoff=handoff)

    return app


@HANDOFF
def test_a_client_that_leaves_meanwhile_ends_the_content(handoff: bool | None) -> None:
    ended = threading.Event()

    async def content() -> AsyncIterator[str]:
        task = asyncio.current_task()
        assert task is not None
        try:
            yield "a"
            run_nested(lambda: task.cancelling() > 0)
            await asyncio.Event().wait()
        finally:
            ended.set()

    with serve(app_with(content, handoff), loop="asyncio") as server:
        with client(server) as reader:
            while b"data: a" not in reader.recv(65536):
                pass
        assert ended.wait(PATIENCE)


@HANDOFF
def test_pings_go_on_afterwards(handoff: bool | None) -> None:
    async def content() -> AsyncIterator[str]:
        run_for(0.03)
        yield "a"
        await asyncio.Event().wait()

    with serve(app_with(content, handoff, ping=0.01), loop="asyncio") as server, client(server) as reader:
        received = b""
        while b": ping" not in received.partition(b"data: a\n\n")[2]:
            part = reader.recv(65536)
            assert part, received
            received += part


@HANDOFF
def test_the_loop_rests_meanwhile_while_events_are_held(handoff: bool | None) -> None:
    turns: list[int] = []

    async def content() -> AsyncIterator[str]:
        for event in "abcd":
            yield event
            await next_turn()
        turns.append(run_for(0.05))
        yield "e"

    with serve(app_with(content, handoff), loop="asyncio") as server, server.stream("/") as events:
        assert [event.data for event in events.rest()] == list("abcde")
    assert turns[0] < 100
