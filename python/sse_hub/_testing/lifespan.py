"""An application's start-up and shutdown, in process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp, Message, Scope

__all__ = ["lifespan"]


@asynccontextmanager
async def lifespan(app: ASGIApp) -> AsyncIterator[dict[str, Any]]:
    """Run the start-up before the block and the shutdown after it; yields the app's state for requests.

    Raises:
        RuntimeError: the application reported that it failed.
    """
    state: dict[str, Any] = {}
    messages: asyncio.Queue[Message] = asyncio.Queue()
    answers: asyncio.Queue[Message] = asyncio.Queue()
    scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}

    async def run() -> None:
        await app(scope, messages.get, answers.put)

    task = asyncio.create_task(run())

    async def ask(kind: str) -> None:
        await messages.put({"type": f"lifespan.{kind}"})
        answer = asyncio.ensure_future(answers.get())
        await asyncio.wait([answer, task], return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            task.result()
            raise RuntimeError(f"the application has no lifespan: it returned before its {kind} was complete")
        if answer.result()["type"] != f"lifespan.{kind}.complete":
            raise RuntimeError(f"{kind} failed: {answer.result().get('message', '')}")

    try:
        await ask("startup")
        try:
            yield state
        finally:
            await ask("shutdown")
    finally:
        task.cancel()
        await asyncio.wait([task])
