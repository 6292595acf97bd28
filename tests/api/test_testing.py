"""The client and the clock that `sse_hub.testing` provides for the tests of applications."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import Any

import httpx_sse
import pytest
from fastapi import FastAPI, Request
from hypothesis import given
from hypothesis import strategies as st
from sse_hub import Hub, Subscription
from sse_hub.testing import Clock, Event, EventParser, StreamEnded, connect, lifespan
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route


def parse(*chunks: bytes) -> list[Event]:
    parser = EventParser()
    for chunk in chunks:
        parser.feed(chunk)
    return list(parser.events)


# The pieces streams are made of: fields, line ends of every kind, colons, spaces, digits, wide characters.
PIECES = st.sampled_from(
    [
        "data",
        "event",
        "id",
        "retry",
        ":",
        " ",
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        "x",
        "7",
        "é",
        "\u2028",
        "🦀",
        "data: y\n",
    ]
)


@given(st.lists(PIECES, max_size=60).map("".join), st.data())
def test_the_parser_reads_what_httpx_sse_reads_wherever_the_stream_is_cut(
    stream: str, data: st.DataObject
) -> None:
    wire = stream.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    chunks = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    ours = [(event.event, event.data) for event in parse(*chunks) if not event.is_comment]
    decoder = httpx_sse._decoders.SSEDecoder()
    # httpx-sse gives a block without data too, which by the standard (and in a browser) is no event.
    lines = stream.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]
    theirs, has_data = [], False
    for line in lines:
        has_data |= line.partition(":")[0] == "data"
        if (event := decoder.decode(line)) is not None and has_data:
            theirs.append((event.event, event.data))
        has_data &= line != ""
    assert ours == theirs


def test_the_parser_follows_the_standard() -> None:
    assert parse(b"\xef\xbb\xbfdata: bom\n\n") == [Event(data="bom")]
    assert parse(b"data:  two spaces\n\n") == [Event(data=" two spaces")]
    assert parse(b"data\n\n") == [Event(data="")]
    assert parse(b"event: e\nid: 1\n\ndata: x\n\n") == [Event(data="x", id="1")]
    assert parse(b"id: 1\ndata: a\n\nid: \0\ndata: b\n\nid\ndata: c\n\n") == [
        Event(data="a", id="1"),
        Event(data="b", id="1"),
        Event(data="c"),
    ]
    assert parse(b"retry: 5\ndata: a\n\nretry: 5s\ndata: b\n\n") == [
        Event(data="a", retry=5),
        Event(data="b"),
    ]
    assert parse(b": hello\ndata: never ended\n") == [Event(":", "hello", is_comment=True)]


def test_an_id_counts_only_when_its_block_has_ended() -> None:
    parser = EventParser("before")
    parser.feed(b"id: 1\ndata: cut")
    assert parser.last_event_id == "before"
    parser.feed(b"\n\n")
    assert parser.last_event_id == "1"


async def test_a_client_reads_an_endless_stream() -> None:
    hub = Hub()
    app = FastAPI()

    @app.get("/events/{topic}")
    async def events(topic: str, request: Request) -> Any:
        return hub.response(topic, headers={"x-asked-with": request.headers.get("x-mine", "")})

    async with connect(app, "/events/prices?q=1", headers={"X-Mine": "é"}) as client:
        assert client.status_code == 200
        assert client.headers["content-type"] == "text/event-stream; charset=utf-8"
        id = await hub.publish("prices", {"eur": 1}, event="tick", retry=7)
        event = await client.next()
        assert event == Event("tick", '{"eur":1}', id, 7)
        assert event.json() == {"eur": 1}
        assert client.last_event_id == id
        assert client.retry == 7
        await client.silent(0)
        for n in range(3):
            hub.publish("prices", n)
        assert [event.data for event in await client.take(3)] == ["0", "1", "2"]
        with pytest.raises(TimeoutError, match="no event within 0 s"):
            await client.next(timeout=0)
        hub.publish("prices", "late")
        with pytest.raises(AssertionError, match="not silent: Event"):
            await client.silent(0)
        assert not client.ended
    assert hub.count() == 0


class Nothing(BaseHTTPMiddleware):
    """It passes a chunk on in several turns of the event loop."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        return response


@pytest.mark.parametrize("middlewares", [0, 3])
async def test_what_was_on_its_way_when_the_loop_stood_still_is_in_time(middlewares: int) -> None:
    hub = Hub()
    app = Starlette(
        routes=[Route("/", hub.endpoint("t"))], middleware=[Middleware(Nothing) for _ in range(middlewares)]
    )

    def stand_still() -> None:
        hub.publish("t", 1)
        time.sleep(0.1)

    async with connect(app, "/") as client:
        asyncio.get_running_loop().call_soon(stand_still)
        assert (await client.next(timeout=0.05)).json() == 1


async def test_control_events_and_comments_come_on_request() -> None:
    hub = Hub()
    async with connect(hub.endpoint("t"), "/", control=True, comments=True, last_event_id="?") as client:
        opening = await client.take(3)
        assert [event.event for event in opening] == [":", "stream-open", "stream-reset"]
        assert opening[0].is_comment
        assert opening[2].json() == {"reason": "unknown", "requested": "?"}


async def test_a_client_reconnects_with_the_last_id_like_a_browser() -> None:
    hub = Hub()
    client = await connect(hub.endpoint("t"), "/")
    first = await hub.publish("t", 1)
    assert (await client.next()).id == first
    await client.close()
    hub.publish("t", 2)
    assert [event.data for event in await (await client.reconnect()).take(1)] == ["2"]
    assert (await (await client.reconnect(first)).next()).data == "2"
    await client.close()
    await client.close()
    assert hub.count() == 0


async def test_the_end_of_a_stream_is_noticed() -> None:
    hub = Hub()
    async with connect(hub.endpoint("t"), "/") as client:
        hub.publish("t", 1)
        await hub.aclose()
        assert [event.data for event in await client.rest()] == ["1"]
        assert client.ended
        with pytest.raises(StreamEnded):
            await client.next()
        with pytest.raises(AssertionError, match="the response ended"):
            await client.silent(0)


async def test_an_answer_that_is_no_stream_is_named() -> None:
    async with connect(PlainTextResponse("no such room", 404), "/") as client:
        with pytest.raises(StreamEnded, match=r"^the response is no stream: 404, 'no such room'$"):
            await client.next()


async def test_a_client_that_left_says_so() -> None:
    async with connect(Hub().endpoint("t"), "/") as client:
        await client.close()
        with pytest.raises(StreamEnded, match="the client has left"):
            await client.next()


async def test_iterating_a_client_ends_with_the_stream() -> None:
    async with connect(
        StreamingResponse(iter(["data: 1\n\n", "data: 2\n\n"]), media_type="text/event-stream"), "/"
    ) as it:
        assert [event.data async for event in it] == ["1", "2"]


async def test_what_the_application_raises_is_raised_where_it_is_noticed() -> None:
    async def before(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("no such room")

    async def broken() -> Any:
        yield "data: 1\n\n"
        raise LookupError("in the middle")

    async def middle(request: Request) -> StreamingResponse:
        return StreamingResponse(broken(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/middle", middle)])
    with pytest.raises(LookupError, match="no such room"):
        await connect(before, "/")
    client = await connect(app, "/middle")
    assert (await client.next()).data == "1"
    with pytest.raises(LookupError, match="in the middle"):
        await client.next()
    await client.close()
    with pytest.raises(LookupError, match="in the middle"):
        async with connect(app, "/middle"):
            pass


async def test_an_ordinary_response_can_be_read() -> None:
    async def teapot(request: Request) -> JSONResponse:
        return JSONResponse({"got": (await request.body()).decode()}, 418)

    app = Starlette(routes=[Route("/", teapot, methods=["POST"])])
    async with connect(app, "/", method="POST", body=b"tea") as client:
        assert client.status_code == 418
        assert await client.read() == b'{"got":"tea"}'


async def test_an_application_that_does_not_end_is_cancelled_and_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sse_hub._testing.exchange._PATIENCE", 0.05)
    cancelled = asyncio.Event()

    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("x")(scope, receive, send)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    client = await connect(stubborn, "/")
    with pytest.raises(TimeoutError, match="did not end"):
        await client.close()
    assert cancelled.is_set()


async def test_a_paused_client_holds_the_application_back() -> None:
    sent = 0

    async def numbers() -> Any:
        nonlocal sent
        while True:
            sent += 1
            yield f"data: {sent}\n\n"
            await asyncio.sleep(0)

    client = await connect(StreamingResponse(numbers(), media_type="text/event-stream"), "/")
    client.pause()
    await asyncio.sleep(0.01)
    held = sent
    await asyncio.sleep(0.01)
    assert sent == held
    client.resume()
    assert [event.data for event in await client.take(held + 5)] == [str(n) for n in range(1, held + 6)]
    client.pause()
    await client.close()  # A write that waits does not keep it.


async def test_a_client_that_is_not_connected_says_so() -> None:
    client = connect(Hub().endpoint("t"), "/")._client
    with pytest.raises(RuntimeError, match="not connected"):
        await client.next()
    await client.close()


async def test_lifespan_runs_start_up_and_shutdown_around_the_block() -> None:
    log: list[str] = []

    @asynccontextmanager
    async def around(app: Starlette) -> Any:
        log.append("up")
        yield {"db": 7}
        log.append("down")

    async def state(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(request.state.db))

    app = Starlette(lifespan=around, routes=[Route("/", state)])
    async with lifespan(app) as given, connect(app, "/", state=given) as client:
        assert log == ["up"]
        assert await client.read() == b"7"
    assert log == ["up", "down"]

    @asynccontextmanager
    async def broken(app: Starlette) -> Any:
        raise LookupError("no database")
        yield

    with pytest.raises((RuntimeError, LookupError), match="no database"):
        async with lifespan(Starlette(lifespan=broken)):
            pass


async def test_the_clock_does_everything_at_its_own_time(clock: Clock) -> None:
    hub = clock.hub(heartbeat=10, stall_timeout=1000)
    async with connect(hub.endpoint("t"), "/", comments=True) as client:
        await client.next()
        await clock.advance(7.4)
        await client.silent(0)  # Heartbeats are spread over the last quarter.
        await clock.advance(2.6)
        await client.next(timeout=0)
        await client.silent(0)
        await clock.advance(100)
        beats = len([await client.next(timeout=0) for _ in range(10)])
        assert beats == 10
    with pytest.raises(ValueError, match="negative"):
        await clock.advance(-1)


async def test_thousands_have_their_turn_before_the_clock_moves_on(clock: Clock) -> None:
    hub = clock.hub(heartbeat=None)
    taken = [0]

    async def consume(stream: Subscription) -> None:
        async for chunk in stream:
            taken[0] += chunk.count(b"data: 1\n")

    tasks = [asyncio.create_task(consume(hub.subscribe("t"))) for _ in range(20_000)]
    await clock.advance(0)
    hub.publish("t", 1)
    await clock.advance(60)
    assert (taken[0], hub.count()) == (20_000, 20_000)
    await hub.aclose()
    await asyncio.gather(*tasks)


async def test_the_machines_clock_cannot_be_moved() -> None:
    with pytest.raises(RuntimeError, match="machine's clock"):
        Hub()._advance(1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"url": "events"}, ValueError, "begins with /, or a whole URL, not 'events'"),
        ({"url": "/", "body": {"a": 1}}, TypeError, "body is bytes, not dict"),
    ],
)
def test_a_request_that_cannot_be_made_is_refused(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        connect(Hub().endpoint("t"), **arguments)
