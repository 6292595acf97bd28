"""What a hub measures, as Prometheus and OpenTelemetry get it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from prometheus_client import CollectorRegistry
from scraping import Samples, scrape, value
from sse_hub import Hub
from sse_hub.metrics import Collector, instrument
from sse_hub.testing import Clock, connect
from starlette.applications import Starlette
from starlette.routing import Route
from waiting import until


def shown(samples: Samples) -> set[str]:
    """The workers of which there are samples."""
    return {dict(labels)["worker"] for _, labels in samples}


def app_of(hub: Hub, **options: Any) -> Starlette:
    return Starlette(routes=[Route("/events", hub.endpoint("t", **options))])


async def test_a_stream_is_counted_from_its_beginning_to_its_end() -> None:
    hub = Hub()
    collector = Collector(hub)
    app = app_of(hub)
    async with connect(app, "/events") as client:
        hub.publish("t", 1)
        event = await client.next()
        samples = scrape(collector)
        assert value(samples, "streams", path="loop") == 1
        assert value(samples, "streams", path="reactor") == 0
        assert value(samples, "events_published_total") == 1
        assert value(samples, "stream_lifetime_seconds_count") == 0
        assert sum(number for (name, _), number in samples.items() if name.endswith("refused_total")) == 1
    hub.publish("t", 2)
    async with connect(app, "/events", last_event_id=event.id) as client:
        assert (await client.next()).json() == 2
        hub.disconnect(id=hub.subscribers()[0].id, reason="a text of the application's")
        assert await client.rest() == []
    samples = scrape(collector)
    assert value(samples, "streams", path="loop") == 0
    assert value(samples, "stream_ends_total", reason="client") == 1
    assert value(samples, "stream_ends_total", reason="kicked") == 1
    assert value(samples, "stream_lifetime_seconds_count") == 2
    assert value(samples, "streams_resumed_total") == 1
    assert value(samples, "replay_events_count") == 1
    assert value(samples, "replay_events_sum") == 1
    assert "broker_connected" not in str(samples)
    assert "application's" not in str(samples)


async def test_the_life_of_a_stream_is_measured_on_the_hubs_clock() -> None:
    clock = Clock()
    hub = clock.hub(heartbeat=None)
    async with connect(app_of(hub), "/events"):
        await clock.advance(61.0)
    samples = scrape(Collector(hub))
    assert value(samples, "stream_lifetime_seconds_sum") == 61
    assert value(samples, "stream_lifetime_seconds_bucket", le="60.0") == 0
    assert value(samples, "stream_lifetime_seconds_bucket", le="300.0") == 1


async def test_the_time_from_publishing_to_writing_is_measured() -> None:
    hub = Hub()
    async with connect(app_of(hub), "/events") as client:
        hub.publish("t", 1)
        time.sleep(0.03)  # noqa: ASYNC251 - the loop is blocked, so that nothing is written any sooner
        await client.next()
        await asyncio.sleep(0)
        samples = scrape(Collector(hub))
    assert value(samples, "publish_to_write_seconds_count") == 1
    assert value(samples, "publish_to_write_seconds_sum") >= 0.03
    assert value(samples, "publish_to_write_seconds_bucket", le="0.025") == 0


async def test_runs_are_counted_by_state() -> None:
    hub = Hub()
    waits = asyncio.Event()

    async def one() -> AsyncIterator[int]:
        yield 1
        await waits.wait()

    async def fails() -> AsyncIterator[int]:
        yield 1
        raise ValueError("on purpose")

    run = await hub.run("one", one)
    await (await hub.run("two", fails)).wait()
    samples = scrape(Collector(hub))
    assert value(samples, "runs_running") == 1
    assert value(samples, "runs_ended_total", state="failed") == 1
    waits.set()
    await run.wait()
    samples = scrape(Collector(hub))
    assert (value(samples, "runs_running"), value(samples, "runs_ended_total", state="done")) == (0, 1)


def test_a_registry_refuses_the_same_names_twice_and_a_collector_takes_several_hubs() -> None:
    registry = CollectorRegistry()
    registry.register(Collector(Hub(name="a"), Hub(name="b")))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(Collector(Hub()))
    with pytest.raises(ValueError, match=r"two hubs are named 'default': give one of them another name="):
        Collector(Hub(), Hub())
    with pytest.raises(TypeError, match="Collector takes hubs, not int"):
        Collector(1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="instrument needs a hub"):
        instrument()


async def test_opentelemetry_gets_the_same_numbers() -> None:
    reader = InMemoryMetricReader()
    hub = Hub(name="shop")
    instrument(hub, meter_provider=MeterProvider([reader]))
    async with connect(app_of(hub), "/events") as client:
        hub.publish("t", 1)
        await client.next()
    data = reader.get_metrics_data()
    assert data is not None
    [metrics] = [scope.metrics for resource in data.resource_metrics for scope in resource.scope_metrics]
    found = {
        (metric.name, tuple(sorted((point.attributes or {}).items()))): point.value
        for metric in metrics
        for point in metric.data.data_points
        if isinstance(point, NumberDataPoint)
    }
    hub_only = (("hub", "shop"),)
    assert found["sse_hub.events_published", hub_only] == 1
    assert found["sse_hub.streams", (("hub", "shop"), ("path", "loop"))] == 0
    assert found["sse_hub.stream_ends", (("hub", "shop"), ("reason", "client"))] == 1
    assert found["sse_hub.stream_lifetime_seconds.count", hub_only] == 1
    assert found["sse_hub.stream_lifetime_seconds.bucket", (("hub", "shop"), ("le", "+Inf"))] == 1


OTHER_WORKER = """
import sys
from sse_hub import Hub
from sse_hub.metrics import Collector
hub = Hub()
hub.publish("t", 1)
collector = Collector(hub, shared=sys.argv[1])
sys.stdin.read()
"""


def test_workers_show_each_other_until_they_are_gone(tmp_path: Path) -> None:
    hub = Hub()
    collector = Collector(hub, shared=tmp_path / "metrics")
    command = [sys.executable, "-c", OTHER_WORKER, str(tmp_path / "metrics")]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        written = tmp_path / "metrics" / f"{other.pid}.json"
        until(written.exists)
        samples = scrape(collector)
        assert value(samples, "events_published_total", worker=str(other.pid)) == 1
        assert value(samples, "events_published_total", worker=str(os.getpid())) == 0
        assert other.stdin is not None
        other.stdin.close()
    long_ago = time.time() - 3600
    os.utime(written, (long_ago, long_ago))
    assert shown(scrape(collector)) == {str(os.getpid())}
    assert not written.exists()


def test_a_forked_worker_writes_its_own(tmp_path: Path) -> None:
    program = f"""
import os, sys, time
from sse_hub import Hub
from sse_hub.metrics import Collector
collector = Collector(Hub(), shared={str(tmp_path)!r})
child = os.fork()
if child == 0:
    while not os.path.exists(f"{tmp_path}/{{os.getpid()}}.json"):
        time.sleep(0.01)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=False).returncode == 0
