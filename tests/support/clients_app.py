"""An app whose runs say words that the test releases, in the formats of published clients.

``Model(Hub()).app`` runs in the test's process; ``uvicorn("clients_app:app")`` is one of several workers,
whose hub is that of ``SSE_HUB_URL``; its events carry the span in which a run began. What is released at one
worker is not at another, and each counts the requests for a run's events that it has had.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from sse_hub import Hub
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

WORDS = ["Once ", "upon ", "a ", "time ", "ünd ", "\u2028", "the end\n"]

# Unless the query says `never-closes`, it closes its source when it is told the end.
PAGE = """<!doctype html><title>Run</title><link rel="icon" href="data:,"><p id="text"></p><script>
  let text = "", end = null, opened = 0;
  const ids = [], source = new EventSource("/sse/" + location.hash.slice(1));
  source.addEventListener("stream-open", () => { opened += 1; });
  source.onmessage = (event) => { text += JSON.parse(event.data); ids.push(event.lastEventId); };
  source.addEventListener("stream-end", (event) => {
    end = JSON.parse(event.data);
    ids.push(event.lastEventId);
    if (location.search !== "?never-closes") source.close();
  });
  source.onerror = () => { if (source.readyState === 2 && end === null) end = {state: "nothing"}; };
</script>"""

TRACER = TracerProvider(shutdown_on_exit=False).get_tracer("model")


class Model:
    """One run per id and format."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.words: dict[str, int] = defaultdict(lambda: 3)
        self.failing: set[str] = set()
        self.came_with: dict[str, list[str | None]] = defaultdict(list)  # the id of each request
        self.app = Starlette(
            lifespan=self.lifespan,
            routes=[
                Route("/page", self.page),
                Route("/api/chat", self.chat, methods=["POST"]),
                Route("/api/chat/{id}/stream", self.resume),
                Route("/v1/chat/completions", self.completions, methods=["POST"]),
                Route("/agui", self.agui, methods=["POST"]),
                Route("/sse/{id}", self.sse, methods=["POST", "GET"]),
                Route("/transcript/{id}", self.transcript),
                Route("/run/{id}", self.requests),
                Route("/run/{id}", self.stop, methods=["DELETE"]),
                Route("/run/{id}", self.release, methods=["PUT"]),
            ],
        )

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        print("lifespan started", flush=True)
        yield
        await self.hub.aclose()

    async def said(self, id: str) -> AsyncIterator[str]:
        for at, word in enumerate(WORDS):
            while at >= self.words[id]:
                if id in self.failing:
                    raise RuntimeError("the key is 1234")
                await asyncio.sleep(0.002)
            yield word

    async def ui(self, id: str) -> AsyncIterator[Any]:
        yield {"type": "start", "messageId": "m"}
        yield {"type": "text-start", "id": "t"}
        async for word in self.said(id):
            yield {"type": "text-delta", "id": "t", "delta": word}
        yield {"type": "text-end", "id": "t"}
        yield {"type": "finish"}

    async def chunks(self, id: str) -> AsyncIterator[Any]:
        async for word in self.said(id):
            choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
            yield {
                "id": "c",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "m",
                "choices": [choice],
            }

    async def agent(self, id: str) -> AsyncIterator[Any]:
        yield {"type": "RUN_STARTED", "threadId": "t", "runId": "r"}
        yield {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"}
        async for word in self.said(id):
            yield {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": word}
        yield {"type": "TEXT_MESSAGE_END", "messageId": "m"}
        yield {"type": "RUN_FINISHED", "threadId": "t", "runId": "r"}

    async def start(self, id: str, source: Callable[[str], AsyncIterator[Any]], format: Any) -> Response:
        with TRACER.start_as_current_span("ask"):
            run = await self.hub.run(id, source, id, error=lambda error: f"sorry: {type(error).__name__}")
        return run.response(format=format)

    async def page(self, request: Request) -> Response:
        return HTMLResponse(PAGE)

    async def chat(self, request: Request) -> Response:
        return await self.start((await request.json())["id"], self.ui, "ai-sdk")

    async def resume(self, request: Request) -> Response:
        return self.hub.follow(request.path_params["id"], format="ai-sdk")

    async def completions(self, request: Request) -> Response:
        return await self.start((await request.json())["user"], self.chunks, "openai")

    async def agui(self, request: Request) -> Response:
        id = (await request.json())["threadId"]
        if "again" in request.query_params:
            return self.hub.follow(id, format="ag-ui")
        return await self.start(id, self.agent, "ag-ui")

    async def sse(self, request: Request) -> Response:
        if request.method == "POST":
            return await self.start(request.path_params["id"], self.said, None)
        self.came_with[request.path_params["id"]].append(request.headers.get("last-event-id"))
        return self.hub.follow(request.path_params["id"])

    async def transcript(self, request: Request) -> Response:
        format: Any = request.query_params.get("format")
        return self.hub.follow(request.path_params["id"], format=format)

    async def requests(self, request: Request) -> Response:
        return JSONResponse(self.came_with[request.path_params["id"]])

    async def stop(self, request: Request) -> Response:
        return JSONResponse(await self.hub.stop(request.path_params["id"]))

    async def release(self, request: Request) -> Response:
        """Say so many words, or fail."""
        id = request.path_params["id"]
        if "fail" in request.query_params:
            self.failing.add(id)
        self.words[id] = int(request.query_params.get("words", self.words[id]))
        return JSONResponse(None)


if url := os.environ.get("SSE_HUB_URL"):
    app = Model(Hub(url, trace=True, reconnect=(0.05, 0.1))).app
