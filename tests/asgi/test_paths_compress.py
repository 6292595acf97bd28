"""Compressed streams, through real sockets and on both paths."""

from __future__ import annotations

import asyncio
import gzip
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sse_hub import EventSourceResponse, Hub
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from waiting import until
from wire import WAYS, Site, Stream, only
from zipped import GZIP, Zipped

SITES = tuple(WAYS)


def zipped(site: Site, hub: Hub, topics: Any = "t", *, client: Any = None, **options: Any) -> Zipped:
    site.app = hub.endpoint(topics, compress=True, **options)
    return opened(site, hub, **(client or {}))


def opened(site: Site, hub: Hub, **client: Any) -> Zipped:
    stream = Zipped(site.port, **client)
    stream.opened()
    assert b"\r\ncontent-encoding: gzip\r\n" in stream.head.lower() + b"\r\n"
    assert stream.head.lower().count(b"content-encoding") == 1
    assert b"vary: accept-encoding" in stream.head.lower()
    assert {one.path for one in hub.subscribers()} <= {site.path}  # one with `max_age` may have ended
    return stream


def test_events_come_at_once_and_the_body_ends_as_it_should(site: Site) -> None:
    hub = site.hub()
    with zipped(site, hub) as one, zipped(site, hub) as other:
        for n in range(200):
            hub.publish("t", {"symbol": "GOLD", "n": n})
            assert one.event().json()["n"] == n
        assert [data["n"] for data in other.take(200)] == [*range(200)]
        hub.subscribers()[0].send("private")
        hub.end("t")
        ends = [stream.rest() for stream in (one, other)]
        assert sorted(len(rest) for rest in ends) == [1, 2]
        for stream, rest in zip((one, other), ends, strict=True):
            assert rest[-1].event == "stream-end"
            assert stream.ended
            assert stream.decoder.eof, "a trailer, whose checksum is right"


def test_watchers_of_a_run_share_a_body_without_broadcasts(site: Site) -> None:
    hub = site.hub()
    said = 0

    async def numbers() -> AsyncIterator[int]:
        for n in range(100):
            while n >= said:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            yield n

    async def watch(request: Request) -> Response:
        return (await hub.run("r", numbers)).response(compress=True)

    site.app = Starlette(routes=[Route("/", watch)])
    with opened(site, hub) as one, opened(site, hub) as other:
        for n in range(100):
            hub.broadcast("to all")
            said = n + 1
            assert one.take(1) == [n]
        assert [event.json() for event in one.rest()] == [{"state": "done"}]
        assert [event.json() for event in other.rest()] == [*range(100), {"state": "done"}]
        for stream in (one, other):
            assert stream.decoder.eof, "a trailer, whose checksum is right"


@pytest.mark.parametrize("ends", ["close", "disconnect", "max_age"])
def test_each_end_of_a_stream_ends_the_body(site: Site, ends: str) -> None:
    hub = site.hub()
    options: dict[str, Any] = {"user": "Ada"}
    if ends == "max_age":  # which may come before anything is published to the stream
        options = {"max_age": 0.2, "replay": 1}
        hub.publish("t", "last")
    with zipped(site, hub, **options) as stream:
        if ends == "close":
            hub.publish("t", "last")
            only(hub).close()
        elif ends == "disconnect":
            hub.publish("t", "last")
            hub.disconnect(user="Ada")
        assert [event.json() for event in stream.rest() if event.event == "message"] == ["last"]
        assert stream.ended
        assert stream.decoder.eof


@pytest.mark.parametrize(
    ("accepts", "is_zipped"),
    [
        ("gzip", True),
        ("GZIP;q=0.5, br", True),
        ("*", True),
        ("deflate, *;q=0.1", True),
        ("br, gzip;q=0", False),
        ("*, gzip;q=0.000", False),
        ("gzip;q=x", False),
        ("gzip;q=0.5, identity", False),
        ("", False),
        ("br", False),
    ],
)
def test_the_client_decides(site: Site, accepts: str, is_zipped: bool) -> None:
    hub = site.hub(compress=True)
    site.app = hub.endpoint("t")
    kind = Zipped if is_zipped else Stream
    with kind(site.port, headers=f"Accept-Encoding: {accepts}\r\n") as stream:
        stream.opened()
        assert (b"content-encoding: gzip" in stream.head.lower()) is is_zipped
        assert b"vary: accept-encoding" in stream.head.lower()
        hub.publish("t", 1)
        assert stream.take(1) == [1]


def test_compression_is_off_unless_asked_for(site: Site) -> None:
    for hub, options in ((site.hub(), {}), (site.hub(compress=True), {"compress": False})):
        with site.stream(hub, client={"headers": GZIP}, **options) as plain:
            assert b"content-encoding" not in plain.head.lower()
            assert b"vary:" not in plain.head.lower()


def test_other_names_in_vary_stay(site: Site) -> None:
    hub = site.hub(compress=True)
    with site.stream(hub, headers={"Vary": "Cookie"}) as plain:
        assert b"vary: cookie, accept-encoding" in plain.head.lower()


def test_a_body_whose_coding_the_application_names_is_left_alone(site: Site) -> None:
    hub = site.hub(compress=True)
    site.app = hub.endpoint("t", headers={"Content-Encoding": "identity"})
    with site.raw(headers=GZIP) as plain:
        plain.opened()
        hub.publish("t", 1)
        assert plain.take(1) == [1]
        assert b"content-encoding: identity" in plain.head.lower()


def test_a_client_that_resumes_is_compressed_anew(site: Site) -> None:
    hub = site.hub()
    with zipped(site, hub) as stream, zipped(site, hub) as other:
        for n in range(50):
            hub.publish("t", n)
        stream.take(25)
        last = stream.last_event_id
        other.take(50)
    with zipped(site, hub, client={"last_event_id": last}) as back, zipped(site, hub) as other:
        assert back.take(25) == [*range(25, 50)]
        for n in range(50, 200):
            hub.publish("t", n)
        assert back.take(150) == other.take(150) == [*range(50, 200)]


def test_heartbeats_and_values_sent_to_one_client_come_between(site: Site) -> None:
    hub = site.hub(heartbeat=0.2)
    with zipped(site, hub) as stream, zipped(site, hub) as other:
        for n in range(3):
            hub.publish("t", n)
            for found in hub.subscribers():
                found.send("mine")
            for one in (stream, other):
                assert one.take(2) == [n, "mine"]
                assert one.next().is_comment


def test_initial_events_are_compressed(site: Site) -> None:
    hub = site.hub()
    rows = [{"row": row, "text": "as many bytes as a row has"} for row in range(100)]
    with zipped(site, hub, initial=lambda subscription: [rows, "second"]) as stream:
        assert stream.take(2) == [rows, "second"]
        assert stream.bytes < len(str(rows)) / 2


def test_a_stream_without_control_events_is_compressed(site: Site) -> None:
    hub = site.hub()
    site.app = hub.endpoint("t", compress=True, control=False)
    with Zipped(site.port) as stream:
        until(lambda: hub.count() == 1)
        hub.publish("t", 1)
        assert stream.take(1) == [1]
        only(hub).close()
        stream.rest()
        assert stream.ended
        assert stream.decoder.eof


def test_a_subscription_in_an_event_source_response(site: Site) -> None:
    hub = site.hub()
    site.serve(lambda request: EventSourceResponse(hub.subscribe("t"), handoff=None, compress=True))
    with opened(site, hub) as one, opened(site, hub) as other:
        for n in range(100):
            hub.publish("t", n)
        assert one.take(100) == other.take(100) == [*range(100)]
        hub.end("t")
        for stream in (one, other):
            stream.rest()
            assert stream.ended
            assert stream.decoder.eof


def test_a_response_that_adds_bytes_of_its_own_is_not_compressed(site: Site) -> None:
    hub = site.hub(compress=True)

    def answer(request: Request) -> Response:
        return EventSourceResponse(hub.subscribe("t"), ping=0.05)

    site.serve(answer)
    with site.raw(headers=GZIP) as stream:
        stream.opened()
        assert b"content-encoding" not in stream.head.lower()
        assert stream.next().is_comment


def test_only_a_subscription_is_compressed() -> None:
    with pytest.raises(TypeError, match="compress=True takes a Subscription as content, not list"):
        EventSourceResponse(["a"], compress=True)


def test_middleware_that_compresses_leaves_the_body_alone(site: Site) -> None:
    hub = site.hub()
    routes = [Route("/", hub.endpoint("t", compress=True))]
    site.app = Starlette(routes=routes, middleware=[Middleware(GZipMiddleware, minimum_size=1)])
    with opened(site, hub) as stream:
        hub.publish("t", 1)
        assert stream.take(1) == [1]


def test_a_full_hub_tells_a_browser_when_to_come_back(site: Site) -> None:
    hub = site.hub(max_subscribers=0)
    site.app = hub.endpoint("t", compress=True)
    answer = httpx.get(f"http://127.0.0.1:{site.port}/", headers={"Accept-Encoding": "gzip"}, trust_env=False)
    assert answer.status_code == 200
    assert answer.text.endswith("retry: 30000\n\n")


@pytest.mark.parametrize(("options", "status"), [({"full_status": 503}, 503), ({}, 204)])
def test_a_status_without_a_stream_is_not_compressed(site: Site, options: Any, status: int) -> None:
    hub = site.hub(max_subscribers=0, **options)
    last = hub.publish("t", 1).id
    assert last is not None
    if status == 204:
        last = hub.end("t").id
    site.app = hub.endpoint("t", compress=True, last_event_id=last)
    answer = httpx.get(f"http://127.0.0.1:{site.port}/", headers={"Accept-Encoding": "gzip"}, trust_env=False)
    assert (answer.status_code, answer.content) == (status, b"")
    assert "content-encoding" not in answer.headers


def test_a_table_that_is_sent_again_takes_few_bytes(site: Site) -> None:
    hub = site.hub()
    table = [{"row": row, "price": round(random.Random(row).random() * 100, 2)} for row in range(60)]
    with zipped(site, hub) as stream, zipped(site, hub) as other:

        def send(times: int) -> None:
            for n in range(times):
                table[n % 60]["price"] = n
                hub.publish("t", table)
            stream.take(times)
            other.take(times)

        def sizes() -> tuple[int, int]:
            stats = hub.stats()
            return stats["compressed_bytes"], stats["uncompressed_bytes"]

        send(150)  # the one that came first may not share the first 64 or so
        zipped_before, plain_before = sizes()
        send(100)
        zipped_now, plain_now = sizes()
        assert zipped_now - zipped_before < 0.05 * (plain_now - plain_before)


def test_runs_are_compressed_only_when_asked(site: Site) -> None:
    hub = site.hub(compress=True)

    async def answer() -> Any:
        yield "word"

    async def start(request: Request) -> Response:
        await hub.run("run", answer)
        compress = True if "zip" in request.query_params else None
        return hub.follow("run", compress=compress)

    site.app = Starlette(routes=[Route("/", start)])
    with site.raw(headers=GZIP) as plain:
        assert plain.take(1) == ["word"]
        assert b"content-encoding" not in plain.head.lower()
    with Zipped(site.port, "/?zip") as stream:
        assert stream.take(1) == ["word"]
        stream.rest()
        assert stream.decoder.eof


@pytest.mark.parametrize("compress", [1, "gzip"])
def test_a_wrong_value_is_refused(compress: Any) -> None:
    for make in (
        lambda: Hub(compress=compress),
        lambda: Hub().response("t", compress=compress),
        lambda: EventSourceResponse([], compress=compress),
    ):
        with pytest.raises(
            TypeError, match=f"compress is True, False or None, not {type(compress).__name__}"
        ):
            make()


def test_a_whole_body_is_what_gzip_reads() -> None:
    from sse_hub._handoff.gzip_body import gzip_header, gzip_rest

    assert gzip.decompress(gzip_header(b"sse-hub 1") + gzip_rest(b"retry: 1\n\n")) == b"retry: 1\n\n"
