"""The demo's server: one hub, one stream for each page, and ordinary POST requests the other way."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal

from fastapi import FastAPI, Header, HTTPException, Query, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from sse_hub import EventSourceResponse, Hub, HubClosed, Subscription

from .answers import stream_answer
from .market import Market
from .models import (
    Change,
    ChatMessage,
    Cut,
    Delivered,
    Name,
    NewChatMessage,
    NewNotice,
    NewWhisper,
    Notice,
    Person,
    Presence,
    Whisper,
)
from .settings import Settings

STATIC = Path(__file__).parent / "static"
PRICES, NOTICES, LOBBY, PRESENCE = "prices", "notices", "chat:lobby", "presence"
HEAD_START = 120  # ticks

logger = logging.getLogger(__name__)
settings = Settings.from_environment()
hub = Hub(heartbeat=settings.heartbeat, reconnect=settings.reconnect)
# How much a newcomer is shown, and how long a page may be away without missing anything.
hub.topic(PRICES, history=settings.tick_history)
hub.topic(NOTICES, history=20)
hub.topic("chat:*", history=200)
hub.topic(PRESENCE, history=50)


async def run_market() -> None:
    """Publish prices for ever, whether anybody looks or not: publishing costs the same."""
    market = Market()
    # The exchange has been open for a while, so that the first visitor finds a chart, too.
    for steps_ago in range(HEAD_START, 0, -1):
        hub.publish(PRICES, market.tick(ago=steps_ago * settings.tick), event="tick")
    while True:
        hub.publish(PRICES, market.tick(), event="tick")
        await asyncio.sleep(settings.tick)


def report(task: asyncio.Task[None]) -> None:
    """Say so at once when a task that should run for ever has failed."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the market has closed", exc_info=error)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Run the market while the app runs; close the hub with it."""
    async with hub:
        market = asyncio.create_task(run_market())
        market.add_done_callback(report)
        yield
        market.cancel()
        with suppress(asyncio.CancelledError):
            await market


app = FastAPI(title="sse-hub demo", lifespan=lifespan)
app.mount("/static", StaticFiles(directory=STATIC), name="static")


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """The page. Its policy lets it load nothing from anywhere else."""
    return FileResponse(STATIC / "index.html", headers={"Content-Security-Policy": "default-src 'self'"})


# --- The stream ------------------------------------------------------------------------------------

ClientId = Annotated[str, Query(pattern=r"^[a-z0-9]{8,32}$")]


@app.get("/events")
async def events(client: ClientId, name: Annotated[Name, Query()], prices: bool = True) -> Response:
    """Everything a page wants to hear, over one connection (HTTP/1.1 allows a browser only six)."""
    topics = [NOTICES, LOBBY, PRESENCE]
    if prices:
        topics.append(PRICES)
    # A newcomer gets all that is kept; one who comes back, what came after the id its browser names.
    return hub.response(topics, replay="all", user=name, info=client)


@hub.on_connect
def connected(subscriber: Subscription) -> None:
    """Tell the page its stream's id, and everybody that it is here."""
    # A line that broke without a word is noticed late: the page's new stream takes the old one's place.
    for other in hub.subscribers():
        if other.info == subscriber.info and other.id != subscriber.id:
            hub.disconnect(id=other.id, reason="replaced")
    hello = {"id": subscriber.id, "recovered": subscriber.recovered, "path": subscriber.path}
    subscriber.send(hello, event="hello")
    what: Literal["came back", "joined"] = "came back" if subscriber.recovered else "joined"
    announce(Change(what=what, name=subscriber.user or "?"))


@hub.on_disconnect
def disconnected(subscriber: Subscription, reason: str) -> None:
    """Tell everybody that it is gone."""
    announce(Change(what="left", name=subscriber.user or "?", why=str(reason)), without=subscriber.id)


def announce(change: Change, *, without: str | None = None) -> None:
    """Publish who is online. The list is short here; with thousands, publish the change alone."""
    people = [
        Person(id=one.id, client=one.info, name=one.user or "?", recovered=one.recovered)
        for one in hub.subscribers()
        if one.id != without
    ]
    presence = Presence(count=len(people), people=people[:50], change=change)
    with suppress(HubClosed):  # The server stops: nobody is left to be told.
        hub.publish(PRESENCE, presence, event="presence")


# --- The other way: ordinary POST requests ---------------------------------------------------------


@app.post("/api/notices")
async def notify(body: NewNotice) -> Delivered:
    """Push a notice to everybody."""
    event_id = await hub.publish(NOTICES, Notice(**body.model_dump()), event="notice")
    return Delivered(id=event_id, online=hub.count(NOTICES))


@app.post("/api/chat")
async def chat(body: NewChatMessage) -> Delivered:
    """Say something in the lobby."""
    event_id = await hub.publish(LOBBY, ChatMessage(**body.model_dump()), event="chat")
    return Delivered(id=event_id, online=hub.count(LOBBY))


@app.post("/api/whispers")
async def whisper(body: NewWhisper) -> Delivered:
    """Send to one stream only. Such an event has no id and is not replayed."""
    if hub.get(body.to) is None:
        raise HTTPException(404, "That page is no longer online.")
    hub.send(body.to, Whisper(author=body.author, text=body.text), event="whisper")
    return Delivered(id=None, online=1)


@app.post("/api/cut")
async def cut(body: Cut) -> Delivered:
    """End a stream. Its browser will be back. (A real app would ask who may do this.)"""
    hub.disconnect(id=body.id, reason="cut by button")
    return Delivered(id=None, online=hub.count())


# --- A stream of one's own: an answer, token by token ------------------------------------------------


@app.get("/api/answer")
async def answer(
    question: Annotated[str, Query(min_length=1, max_length=200)],
    last_event_id: Annotated[int, Header(ge=0)] = 0,
) -> EventSourceResponse:
    """What sse-starlette's users know: an async generator, streamed."""
    return EventSourceResponse(stream_answer(question, last_event_id, settings.token))
