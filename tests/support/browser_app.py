"""The app behind the stream tests: a bare stream, and a page that writes down what its EventSource hears.

Settings from the environment: PORT, HEARTBEAT, HISTORY, ALLOW_ORIGIN (CORS for that origin).
"""

import os
import socket
from collections import defaultdict
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from sse_hub import Hub
from starlette.middleware.cors import CORSMiddleware

PAGE = """<!doctype html><title>Test</title><link rel="icon" href="data:,"><script>
  const seen = [];
  let source;
  function listen(url, names) {
    source = new EventSource(url);
    source.onopen = () => seen.push({ name: "(open)" });
    source.onerror = () => seen.push({ name: "(error)", state: source.readyState });
    for (const name of names)
      source.addEventListener(name, ({ data, lastEventId }) => seen.push({ name, data, id: lastEventId }));
  }
</script>"""

hub = Hub(
    heartbeat=float(os.environ.get("HEARTBEAT", "15")),
    history=int(os.environ.get("HISTORY", "1024")),
    reconnect=(0.05, 0.1),
)
app = FastAPI()
if origin := os.environ.get("ALLOW_ORIGIN"):
    app.add_middleware(CORSMiddleware, allow_origins=[origin])
came_with: dict[str, list[str | None]] = defaultdict(list)
state: dict[str, list[Any]] = defaultdict(list)


class Push(BaseModel):
    """Publish `items` one by one; with `cut`, first end the topic's streams, in the same turn."""

    items: list[Any]
    topic: str
    event: str | None = None
    cut: bool = False


@app.get("/")
async def page() -> HTMLResponse:
    return HTMLResponse(PAGE)


@app.get("/sse-hub.js")
async def client_js() -> Response:
    return hub.client_js()


@app.get("/state")
async def get_state(topic: str) -> dict[str, Any]:
    """Everything that was published on a topic, and the id of the last event."""
    return {"items": [item for item, _ in state[topic]], "id": state[topic][-1][1] if state[topic] else None}


@app.get("/events")
async def events(request: Request, topic: str, compress: bool = False) -> Response:
    came_with[topic].append(request.headers.get("last-event-id"))
    return hub.response(topic, compress=compress)


@app.get("/count")
async def count(topic: str) -> int:
    """How many streams a topic has."""
    return hub.count(topic)


@app.get("/came-with")
async def last_event_ids(topic: str) -> list[str | None]:
    """The Last-Event-ID of each request for this topic so far."""
    return came_with[topic]


@app.post("/push")
async def push(body: Push) -> list[str]:
    if body.cut:
        for subscriber in hub.subscribers(body.topic):
            hub.disconnect(id=subscriber.id)
    published = [hub.publish(body.topic, item, event=body.event) for item in body.items]
    ids = [await publication for publication in published]
    state[body.topic] += zip(body.items, ids, strict=True)
    return ids


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
