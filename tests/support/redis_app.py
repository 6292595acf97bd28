"""An app whose hubs have brokers, for uvicorn workers in processes of their own.

Tests create hubs by name (``redis_workers.Worker.hub``), so that one worker serves many tests. With
``SSE_HUB_URL`` the app starts with one hub, named ``default``, as a user's app does.
"""

from __future__ import annotations

import logging
import os
from typing import Annotated, Any

from announced import announced
from fastapi import Body, FastAPI
from fastapi.responses import Response
from sse_hub import BrokerError, FileBroker, Hub, HubFull, OutcomeUnknown, RedisBroker

logging.basicConfig(format="%(name)s %(levelname)s %(message)s", level=logging.INFO)

hubs: dict[str, Hub] = {}
if url := os.environ.get("SSE_HUB_URL"):
    hubs["default"] = Hub(url)
app = FastAPI(lifespan=announced(hubs.values()))


@app.put("/{name}")
async def make(
    name: str,
    url: Annotated[str, Body()],
    broker: Annotated[dict[str, Any], Body()],
    hub: Annotated[dict[str, Any], Body()],
) -> None:
    if url.startswith("file:"):
        broker.pop("connect_timeout", None)
        hubs[name] = Hub(FileBroker(url, **broker), name=name, **hub)
    else:
        hubs[name] = Hub(RedisBroker(url, **broker), name=name, **hub)


@app.delete("/{name}")
async def close(name: str) -> None:
    await hubs.pop(name).aclose()


@app.get("/{name}/events")
async def events(
    name: str, topics: str = "t", replay: str = "0", user: str | None = None, info: str = ""
) -> Response:
    wanted: Any = replay if replay == "all" else int(replay)
    return hubs[name].response([t for t in topics.split(",") if t], replay=wanted, user=user, info=info)


@app.get("/{name}/subscribers")
async def subscribers(name: str) -> list[dict[str, Any]]:
    there = hubs[name].subscribers()
    return [{"id": one.id, "path": one.path, "info": one.info, "recovered": one.recovered} for one in there]


async def outcome(published: Any) -> dict[str, Any]:
    try:
        return {"id": await published, "pid": os.getpid()}
    except OutcomeUnknown as error:
        return {"unknown": str(error)}
    except BrokerError as error:
        return {"error": str(error)}


@app.post("/{name}/publish")
async def publish(name: str, data: list[Any], topics: str = "t") -> list[dict[str, Any]]:
    """Publish each item; returns the outcomes."""
    published = []
    for item in data:
        try:
            published.append(hubs[name].publish(topics.split(","), item))
        except HubFull as error:
            return [{"full": str(error)}]
    return [await outcome(one) for one in published]


@app.post("/{name}/send")
async def send(name: str, id: str, data: Annotated[Any, Body()]) -> dict[str, Any]:
    return await outcome(hubs[name].send(id, data))


@app.post("/{name}/disconnect")
async def disconnect(name: str, id: str | None = None, user: str | None = None) -> None:
    hubs[name].disconnect(id=id, user=user)


@app.get("/{name}/presence")
async def presence(name: str, topic: str | None = None) -> dict[str, Any]:
    there = await hubs[name].presence(topic)
    return {"count": there.count, "ids": there.ids}


@app.get("/{name}/stats")
async def stats(name: str) -> dict[str, Any]:
    return {**hubs[name].stats(), "pid": os.getpid()}
