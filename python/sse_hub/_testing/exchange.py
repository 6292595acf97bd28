"""One request and its response, in process: the server's side of an ASGI application."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Scope

from sse_hub._testing.event_parser import EventParser
from sse_hub._testing.turns import run_until_idle

__all__ = ["Exchange", "StreamEnded", "make_scope"]

# Seconds that an application gets to end after its client left.
_PATIENCE = 5.0


class StreamEnded(Exception):
    """The server ended the response, or cut it, and no more events can come."""


class Exchange:
    """One request and its response: the server's side of an ASGI application."""

    def __init__(self, app: ASGIApp, scope: Scope, body: bytes, parser: EventParser) -> None:
        self.status_code = 0
        self.headers = Headers()
        self.complete = False
        self.body: list[bytes] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self._parser = parser
        self._requests: deque[Message] = deque(
            [{"type": "http.request", "body": body, "more_body": False}],
        )
        self._left = asyncio.Event()
        self._news = asyncio.Event()
        self._reported = False
        self._task = asyncio.create_task(self._run(app, scope), name=f"{scope['method']} {scope['path']}")
        self._task.add_done_callback(lambda _: self._news.set())

    @property
    def over(self) -> bool:
        return self.complete or self._task.done()

    @property
    def _is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        await app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._requests:
            return self._requests.popleft()
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._left.is_set():
            return  # As uvicorn does: sending does not tell an application that its client left.
        if message["type"] == "http.response.start":
            self.status_code = message["status"]
            self.headers = Headers(raw=list(message.get("headers", [])))
        elif message["type"] == "http.response.body":
            await self._until_read()
            if not self._left.is_set():
                self._read(message.get("body", b""), last=not message.get("more_body", False))
        self._news.set()

    async def _until_read(self) -> None:
        if not self.reading.is_set():
            # A client that leaves closes the connection, which ends a write that waits.
            ends = [asyncio.ensure_future(event.wait()) for event in (self.reading, self._left)]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()

    def _read(self, chunk: bytes, *, last: bool) -> None:
        if self._is_stream:
            self._parser.feed(bytes(chunk))
        else:
            self.body.append(bytes(chunk))
        if last:
            self.complete = True
            self._left.set()  # Servers send http.disconnect after the end, too.

    async def begun(self) -> None:
        """Wait until the response has begun."""
        try:
            while not self.status_code:
                self.check_end()
                await self.changed()
        except BaseException:
            await self.leave(raises=False)
            raise

    async def changed(self) -> None:
        """Wait for something new."""
        self._news.clear()
        await self._news.wait()

    async def changed_before(self, deadline: float) -> bool:
        """Wait for something new until this time of the event loop; False once it has passed.

        Whatever is on its way then has come: a process that was paused finds that the time has passed before
        it has passed on what was there.
        """
        try:
            async with asyncio.timeout_at(None if deadline == float("inf") else deadline):
                await self.changed()
        except TimeoutError:
            await run_until_idle()
            return False
        return True

    def check_end(self) -> None:
        """Raise the reason if nothing more can come."""
        if self._task.done() and not self._task.cancelled() and (error := self._task.exception()) is not None:
            self._reported = True
            raise error
        if self.complete:
            raise StreamEnded(self._completeness())
        if self._task.done():
            if not self.status_code:
                raise RuntimeError("the application returned without a response")
            if self._left.is_set():
                raise StreamEnded("the client has left: reconnect() opens another stream")
            raise StreamEnded("the application returned without ending its response, so a server cuts it")

    def _completeness(self) -> str:
        """What the end of the body ends: tests meet answers such as 404 and 422 here."""
        if self._is_stream:
            return "the response is complete"
        text = b"".join(self.body)[:200].decode(errors="replace")
        return f"the response is no stream: {self.status_code}" + (f", {text!r}" if text else "")

    async def leave(self, *, raises: bool) -> None:
        """Disconnect, and wait until the application has ended."""
        self._left.set()
        try:
            done, _ = await asyncio.wait([self._task], timeout=_PATIENCE)
        finally:
            self._task.cancel()
        if not done:
            await asyncio.wait([self._task])
            raise TimeoutError(f"the application did not end {_PATIENCE} s after its client left")
        if raises and not self._reported and not self._task.cancelled():
            self._reported = True
            self._task.result()


def make_scope(
    url: str, method: str, headers: Mapping[str, str], last_event_id: str, state: dict[str, Any] | None
) -> Scope:
    parts = urlsplit(url)
    host = parts.netloc or "testserver"
    sent = {"host": host, "accept": "text/event-stream", "cache-control": "no-store"}
    sent |= {name.lower(): value for name, value in headers.items()}
    if last_event_id and "last-event-id" not in sent:
        sent["last-event-id"] = last_event_id
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method.upper(),
        "scheme": parts.scheme or "http",
        "path": unquote(parts.path) or "/",
        "raw_path": parts.path.encode("ascii", "ignore"),
        "query_string": parts.query.encode("ascii", "ignore"),
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode()) for name, value in sent.items()],
        "client": ("testclient", 50000),
        "server": (host.partition(":")[0], 443 if parts.scheme == "https" else 80),
        "extensions": {},
    }
    if state is not None:
        scope["state"] = dict(state)
    return scope
