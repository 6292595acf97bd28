"""A rate of writes, through real sockets and on both paths."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sse_hub import EventSourceResponse
from wire import WAYS, Site, Stream, only

SITES = tuple(WAYS)


def arrivals(stream: Stream, count: int) -> list[tuple[float, int]]:
    """Read this many events; when each group of them arrived, and how many were in it."""
    groups: list[tuple[float, int]] = []
    while count > 0:
        assert stream._read(), "the stream ended"
        arrived = [event for event in stream.parser.events if event.event == "message"]
        stream.parser.events.clear()
        if arrived:
            groups.append((time.monotonic(), len(arrived)))
            count -= len(arrived)
    return groups


def test_a_stream_is_written_to_no_more_often_than_its_rate(site: Site) -> None:
    hub = site.hub()
    with site.stream(hub, rate=10) as stream, site.stream(hub) as other, ThreadPoolExecutor() as threads:
        began = time.monotonic()
        reading = threads.submit(arrivals, stream, 40)
        for n in range(40):
            hub.publish("t", n)
            assert other.event().json() == n
            other.silent(0.005)
        groups = reading.result()
        # A client that is read late sees fewer groups, never more.
        assert 2 <= len(groups) <= (groups[-1][0] - began) * 10 + 2


def test_what_is_sent_to_the_client_and_the_end_are_not_held(site: Site) -> None:
    hub = site.hub()
    with site.stream(hub, rate=0.001) as stream:
        hub.publish("t", 1)
        assert stream.take(1) == [1]
        hub.publish("t", 2)
        stream.silent()
        only(hub).send("mine")
        assert stream.take(2) == [2, "mine"]
        hub.publish("t", 3)
        stream.silent()
        hub.end("t")
        assert [event.data for event in stream.rest()] == ["3", '{"state":"ended"}']
        assert stream.ended


@pytest.mark.parametrize("heartbeat", [0.2])
def test_heartbeats_are_not_held(site: Site, heartbeat: float) -> None:
    hub = site.hub(heartbeat=heartbeat)
    with site.stream(hub, rate=0.001) as stream:
        hub.publish("t", 1)
        newest = stream.event().id
        hub.publish("t", 2)
        hub.publish("other", 3)
        for _ in range(3):
            beat = stream.next()
            assert (beat.is_comment, stream.last_event_id) == (True, newest)


def test_a_subscription_in_a_response_keeps_its_rate(site: Site) -> None:
    hub = site.hub()
    site.serve(lambda request: EventSourceResponse(hub.subscribe("t", rate=0.001)))
    with site.raw() as stream:
        stream.opened()
        hub.publish("t", 1)
        assert stream.take(1) == [1]
        hub.publish("t", 2)
        stream.silent()
        hub.disconnect(id=only(hub).id)
        assert [event.json() for event in stream.rest()] == [2]
