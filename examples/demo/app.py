"""The demo's server: one hub, one stream for each page, and ordinary POST requests the other way.

With SSE_HUB_BROKER the hubs of all workers are one, and nothing a page shows is in one worker's memory: what
was said is in the hub's history, who is online is published, and one worker keeps the market for all.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path as FilePath
from typing import Annotated, Literal

from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from sse_hub import BrokerError, EndReason, Hub, HubClosed, Subscription
from sse_hub.metrics import Collector

from . import cost, source, table
from .answers import write_answer
from .exchange import keep_market, trade
from .models import (
    Change,
    ChatMessage,
    Cut,
    Delivered,
    Hello,
    Name,
    NewChatMessage,
    NewNotice,
    NewWhisper,
    Notice,
    Person,
    Presence,
    Question,
    Whisper,
    now,
)
from .settings import Settings

STATIC = FilePath(__file__).parent / "static"
PRICES, NOTICES, LOBBY, PRESENCE, COST = "prices", "notices", "chat:lobby", "presence", "cost"
WORKER = f"{socket.gethostname()}-{os.getpid()}"
BEAT = 5.0  # seconds after which a worker says anew who is there, so that one that died is noticed

logger = logging.getLogger(__name__)
try:
    settings = Settings.from_environment()
except ValueError as error:
    raise SystemExit(f"sse-hub demo: {error}") from None
# How much is kept says how long a page may be away without missing anything. `replay`: what a newcomer is
# shown of it.
replay: int | Literal["all"]
if settings.broker is None:
    hub = Hub(heartbeat=settings.heartbeat, reconnect=settings.reconnect)
    hub.topic(PRICES, history=settings.tick_history)
    hub.topic(NOTICES, history=20)
    hub.topic("chat:*", history=200)
    hub.topic(PRESENCE, history=50)
    hub.topic(COST, history=1)
    hub.topic(table.QUOTES, history=4)
    replay = "all"
else:
    # The stream keeps all topics together.
    hub = Hub(
        settings.broker,
        name="demo",
        history=settings.history,
        heartbeat=settings.heartbeat,
        reconnect=settings.reconnect,
    )
    replay = settings.tick_history
registry = CollectorRegistry()
registry.register(Collector(hub, shared=settings.metrics))


meter = cost.Meter(hub, PRICES, COST, settings.crowd, settings.measured)


def report(task: asyncio.Task[None]) -> None:
    """Say so at once when a task that should run for ever has failed."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("%s has ended", task.get_name(), exc_info=error)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Run the market while the app runs; close the hub with it."""
    async with hub:
        works = {"the market": keep_market(hub, PRICES, settings.tick)}
        if settings.broker is not None:
            works["the roll call"] = call_roll()
        else:
            works["the table"] = table.change_rows(hub)
        tasks = [asyncio.create_task(work, name=name) for name, work in works.items()]
        for task in tasks:
            task.add_done_callback(report)
        if settings.broker is None:  # With a broker several workers share a port, and the card stays off.
            meter.show()
        yield
        await meter.stop()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=1.0)


app = FastAPI(title="sse-hub demo", lifespan=lifespan)


@app.exception_handler(BrokerError)
async def broker_is_away(_: Request, error: BrokerError) -> JSONResponse:
    """Redis did not take it. The page shows why."""
    return JSONResponse({"detail": str(error)}, 503)


app.mount("/static", StaticFiles(directory=STATIC), name="static")


@app.get("/sse-hub.js", include_in_schema=False)
async def client_js() -> Response:
    """The client with which the page reads its stream."""
    return hub.client_js()


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """The page. Its policy lets it load nothing from anywhere else."""
    return FileResponse(STATIC / "index.html", headers={"Content-Security-Policy": "default-src 'self'"})


@app.get("/metrics", include_in_schema=False)
def metrics() -> Response:
    """What Prometheus scrapes. (A real app would keep it from the public.)"""
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


# --- The stream ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Visitor:
    """What the hub keeps for us of each subscriber."""

    client: str
    since: datetime = field(default_factory=now)


ClientId = Annotated[str, Query(pattern=r"^[a-z0-9]{8,32}$")]


@app.get("/events")
async def events(client: ClientId, name: Annotated[Name, Query()], prices: bool = True) -> Response:
    """Everything a page wants to hear, over one connection (HTTP/1.1 allows a browser only six)."""
    topics = [NOTICES, LOBBY, PRESENCE, COST]
    if prices:
        topics.append(PRICES)
    # A newcomer gets what is kept; one who comes back, what came after the id its browser names.
    return hub.response(topics, replay=replay, user=name, info=Visitor(client))


@hub.on_connect
def connected(subscriber: Subscription) -> None:
    """Tell the page its stream's id, and everybody that it is here."""
    if subscriber.info is None:  # who watches an answer, or the market that looks for its last tick
        return
    # A line that broke without a word is noticed late: the page's new stream takes the old one's place.
    for other in visitors():
        if other.info.client == subscriber.info.client and other.id != subscriber.id:
            hub.disconnect(id=other.id, reason="replaced")
    hello = Hello(
        id=subscriber.id,
        recovered=subscriber.recovered,
        path=subscriber.path,
        worker=WORKER,
        broker=settings.shown_broker,
    )
    subscriber.send(hello, event="hello")
    what: Literal["came back", "joined"] = "came back" if subscriber.recovered else "joined"
    announce(Change(what=what, name=subscriber.user or "?"))


@hub.on_disconnect
def disconnected(subscriber: Subscription, reason: EndReason) -> None:
    """Tell everybody that it is gone."""
    if subscriber.info is None:
        return
    announce(Change(what="left", name=subscriber.user or "?", why=str(reason)), without=subscriber.id)


def visitors() -> list[Subscription]:
    """The streams of pages."""
    return [one for one in hub.subscribers() if one.info is not None]


def announce(change: Change | None, *, without: str | None = None) -> None:
    """Publish who is online here. The list is short; with thousands, publish the change alone."""
    people = [
        Person(
            id=one.id,
            client=one.info.client,
            since=one.info.since,
            name=one.user or "?",
            recovered=one.recovered,
        )
        for one in visitors()
        if one.id != without
    ]
    presence = Presence(
        worker=WORKER,
        good_for=None if settings.broker is None else 3 * BEAT,
        count=len(people),
        people=people[:50],
        change=change,
    )
    with suppress(HubClosed):  # The server stops: nobody is left to be told.
        hub.publish(PRESENCE, presence, event="presence")


async def call_roll() -> None:
    """Say again and again who is here: pages forget the people of a worker that does not."""
    while True:
        await asyncio.sleep(BEAT)
        if hub.count():
            announce(None)


# --- The other way: ordinary POST requests ---------------------------------------------------------


@app.post("/api/notices")
async def notify(body: NewNotice) -> Delivered:
    """Push a notice to everybody."""
    event_id = await hub.publish(NOTICES, Notice(**body.model_dump()), event="notice")
    return Delivered(id=event_id, online=(await hub.presence(NOTICES)).count)


@app.post("/api/chat")
async def chat(body: NewChatMessage) -> Delivered:
    """Say something in the lobby."""
    event_id = await hub.publish(LOBBY, ChatMessage(**body.model_dump()), event="chat")
    return Delivered(id=event_id, online=(await hub.presence(LOBBY)).count)


@app.post("/api/whispers")
async def whisper(body: NewWhisper) -> Delivered:
    """Send to one stream only. Such an event has no id and is not replayed."""
    if body.to not in (await hub.presence()).ids:
        raise HTTPException(404, "That page is no longer online.")
    hub.send(body.to, Whisper(author=body.author, text=body.text), event="whisper")
    return Delivered(id=None, online=1)


@app.post("/api/cut")
async def cut(body: Cut) -> Delivered:
    """End a stream. Its browser will be back. (A real app would ask who may do this.)"""
    hub.disconnect(id=body.id, reason="cut by button")
    return Delivered(id=None, online=(await hub.presence()).count)


# --- A run: an answer, token by token, that belongs to no connection ---------------------------------

AnswerId = Annotated[str, Path(pattern=r"^[a-f0-9]{16,32}$")]


@app.post("/api/answers/{id}")
async def ask(id: AnswerId, body: Question) -> dict[str, str]:
    """Begin to answer, whoever watches."""
    run = await hub.run(f"answer:{id}", write_answer, body.question, settings.token, idle=60)
    return {"state": run.state}


@app.get("/api/answers/{id}")
async def watch(id: AnswerId) -> Response:
    """The answer from its beginning, or from the browser's last id."""
    return hub.follow(f"answer:{id}")


@app.delete("/api/answers/{id}")
async def stop(id: AnswerId) -> dict[str, bool]:
    """Stop it, wherever it runs."""
    return {"stopped": await hub.stop(f"answer:{id}")}


# --- What a client costs, and the lines behind each card ---------------------------------------------

app.include_router(cost.routes(meter, anywhere=settings.crowd_anywhere))
# In a broker's stream so many values would push out what pages come back for.
app.include_router(table.routes(hub, shown=settings.broker is None))
app.include_router(
    source.routes(
        {
            "market": [trade, events],
            "connection": [connected, disconnected, cut],
            "cost": [cost.routes],
            "table": [table.change_rows, table.routes],
            "chat": [chat],
            "answer": [write_answer, ask, watch, stop],
            "people": [announce, whisper],
            "notices": [notify],
        }
    )
)
