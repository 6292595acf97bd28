"""The server's side of one ASGI request, played by the test, and generators for streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from sse_hub import EventSourceResponse
from starlette.types import Message, Scope
from waiting import PATIENCE

HTTP: Scope = {"type": "http", "method": "GET", "headers": [], "http_version": "1.1", "path": "/"}


class Connection:
    """The server's side of one request: the messages it received, and a client that can leave."""

    def __init__(self, scope: Scope = HTTP) -> None:
        self.scope = scope
        self.sent: list[Message] = []
        self.left = asyncio.Event()
        self._changed = asyncio.Event()
        # Every send of a part of the body awaits this.
        self.on_body: Callable[[bytes], Awaitable[None]] | None = None

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.on_body is not None and message["type"].endswith("body") and message["more_body"]:
            await self.on_body(message["body"])
        self.sent.append(message)
        self._changed.set()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def complete(self) -> bool:
        return bool(self.sent) and self.sent[-1].get("more_body") is False

    async def until(self, text: bytes) -> None:
        """Wait until the response has sent ``text``."""
        async with asyncio.timeout(PATIENCE):
            while text not in self.body:
                self._changed.clear()
                await self._changed.wait()

    def start(self, response: EventSourceResponse) -> asyncio.Task[None]:
        return asyncio.create_task(response(self.scope, self.receive, self.send))

    async def run(self, response: EventSourceResponse) -> None:
        async with asyncio.timeout(PATIENCE):
            await response(self.scope, self.receive, self.send)


class Endless:
    """A generator that yields once, then waits, and records how it ends."""

    def __init__(self, first: Any = "hello") -> None:
        self.notes: list[str] = []
        self.tasks: set[asyncio.Task[Any] | None] = set()
        self._first = first

    async def events(self) -> AsyncIterator[Any]:
        self.tasks.add(asyncio.current_task())
        try:
            yield self._first
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.notes.append("cancelled")
            raise
        finally:
            self.tasks.add(asyncio.current_task())
            await asyncio.sleep(0)  # cleanup may wait
            self.notes.append("cleaned up")


async def three() -> AsyncIterator[int]:
    for number in range(3):
        yield number


async def done(task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(PATIENCE):
        await task
