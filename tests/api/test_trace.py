"""Events carry the trace that they belong to: the ``traceparent`` of OpenTelemetry's active span."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import TraceFlags
from pydantic import BaseModel
from sse_hub import EventTooLarge, Hub
from sse_hub.testing import connect

tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")


class Tick(BaseModel):
    """A price."""

    price: float


def active() -> str:
    """The active span as OpenTelemetry's own propagator writes it."""
    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier["traceparent"]


async def test_each_way_to_publish_takes_the_active_span() -> None:
    hub = Hub(trace=True)
    channel = hub.channel("t", tick=Tick)
    async with connect(hub.endpoint("t"), "/") as client:
        (subscriber,) = hub.subscribers()
        for publish in (
            lambda: hub.publish("t", 1),
            lambda: hub.broadcast(1),
            lambda: hub.send(subscriber.id, 1),
            lambda: subscriber.send(1),
            lambda: channel.publish(Tick(price=1)),
        ):
            with tracer.start_as_current_span("asks"):
                publish()
                expected = active()
            publish()
            assert [(await client.next()).traceparent for _ in range(2)] == [expected, None]


async def test_a_span_can_go_on_where_the_event_arrives() -> None:
    hub = Hub(trace=True)
    async with connect(hub.endpoint("t"), "/") as client:
        with tracer.start_as_current_span("asks") as span:
            hub.publish("t", 1)
        event = await client.next()
    with tracer.start_as_current_span(
        "arrives", context=extract({"traceparent": event.traceparent})
    ) as child:
        assert child.get_span_context().trace_id == span.get_span_context().trace_id


async def test_the_trace_is_replayed() -> None:
    hub = Hub(trace=True)
    with tracer.start_as_current_span("asks"):
        first = await hub.publish("t", 1)
        hub.publish("t", 2, comment="why", event="tick", retry=7, key="k")
        expected = active()
    for id in (None, first):
        async with connect(hub.endpoint("t", replay="all"), "/", last_event_id=id) as client:
            while (event := await client.next()).data != "2":
                pass
            assert (event.traceparent, event.event, event.retry) == (expected, "tick", 7)


async def test_a_trace_that_is_not_sampled_travels_too() -> None:
    hub = Hub(trace=True)
    unsampled = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("test")
    async with connect(hub.endpoint("t"), "/") as client:
        with unsampled.start_as_current_span("asks"):
            hub.publish("t", 1)
            assert int(active()[-2:], 16) & TraceFlags.SAMPLED == 0
            assert (await client.next()).traceparent == active()


async def test_a_subscription_and_a_stream_without_control_events_have_the_line() -> None:
    hub = Hub(trace=True)
    subscription = hub.subscribe("t", control=False)
    with tracer.start_as_current_span("asks"):
        id = await hub.publish("t", "x", event="tick")
        line = f"traceparent: {active()}"
    received = b""
    async for part in subscription:
        received += part
        if b"tick" in received:
            break
    assert received.endswith(f'id: {id}\n{line}\nevent: tick\ndata: "x"\n\n'.encode())


async def test_a_run_belongs_to_the_span_in_which_it_began() -> None:
    inner: list[str] = []

    async def source() -> AsyncIterator[str]:
        yield "as it began"
        with tracer.start_as_current_span("thinks"):
            inner.append(active())
            yield "thought"
        yield "as it began"

    async with Hub(trace=True) as hub:
        with tracer.start_as_current_span("asks"):
            run = await hub.run("r", source)
            expected = active()
        await run.wait()
        async with connect(hub.follow("r"), "/") as client:
            traces = [(await client.next()).traceparent for _ in range(3)]
        assert traces == [expected, inner[0], expected]


async def test_no_event_has_a_trace_unless_the_hub_is_asked_to() -> None:
    hub = Hub()
    async with connect(hub.endpoint("t"), "/") as client:
        with tracer.start_as_current_span("asks"):
            hub.publish("t", 1)
        assert (await client.next()).traceparent is None


def test_the_line_counts_as_part_of_the_event() -> None:
    hub = Hub(trace=True, max_event_bytes=50)
    hub.publish("t", 1)
    with tracer.start_as_current_span("asks"), pytest.raises(EventTooLarge):
        hub.publish("t", 1)


def test_it_needs_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(ImportError, match=r"Hub\(trace=True\) needs opentelemetry-api: pip install"):
        Hub(trace=True)
    Hub()


@pytest.mark.parametrize("trace", ["yes", 1, None])
def test_it_is_a_switch(trace: Any) -> None:
    with pytest.raises(TypeError, match="trace is True or False, not"):
        Hub(trace=trace)
