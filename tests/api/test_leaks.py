"""What hubs, loops and streams leave behind: no descriptor, no object, no topic."""

from __future__ import annotations

import asyncio
import gc
import os
import time
import weakref
from typing import Any

from loops import on_each_loop
from programs import run_program
from sse_hub import Hub
from sse_hub.testing import connect
from waiting import PATIENCE, promised, until


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def until_descriptors_are(number: int) -> None:
    """Wait until so few are open: a thread that another test left may open some for a moment."""
    until(lambda: descriptors() <= number)


@on_each_loop
def test_loops_leave_no_descriptors_and_no_objects(new_loop: Any) -> None:
    hub = Hub()
    hub.on_disconnect(lambda subscription, reason: None)
    markers: list[weakref.ref[Any]] = []

    class Info:
        pass

    async def live(orderly: bool) -> None:
        info = Info()
        markers.append(weakref.ref(info))
        stream = hub.subscribe("t", info=info)
        hub.publish("t", 1)
        await anext(stream)
        if not orderly:
            task = asyncio.create_task(_consume(stream))
            await asyncio.sleep(0)
            task._log_destroy_pending = False  # type: ignore[attr-defined]

    def one(orderly: bool) -> None:
        loop = new_loop()
        loop.run_until_complete(live(orderly))
        loop.close()

    for orderly in (True, False):
        one(orderly)
        gc.collect()
        before = descriptors()
        for _ in range(50):
            one(orderly)
        gc.collect()
        until_descriptors_are(before + 1)
        assert sum(marker() is not None for marker in markers) <= 1, "the last loop's, at most"
    one(True)
    assert hub.stats()["readers"] <= 2


@on_each_loop
def test_a_hub_that_is_closed_after_its_loop_waits_for_nobody_and_leaves_nothing(new_loop: Any) -> None:
    markers: list[weakref.ref[Any]] = []

    class Info:
        pass

    async def live(hub: Hub) -> None:
        info = Info()
        markers.append(weakref.ref(info))
        task = asyncio.create_task(_consume(hub.subscribe("t", info=info)))
        await asyncio.sleep(0)
        task._log_destroy_pending = False  # type: ignore[attr-defined]

    def one() -> None:
        hub = Hub()
        loop = new_loop()
        loop.run_until_complete(live(hub))
        loop.close()
        begin = time.monotonic()
        hub.close(PATIENCE)
        assert time.monotonic() - begin < promised(1), "nobody is left who could take the end"

    one()
    gc.collect()
    before = descriptors()
    for _ in range(20):
        one()
    gc.collect()
    until_descriptors_are(before)
    assert not [marker() for marker in markers if marker() is not None]


async def _consume(stream: Any) -> None:
    async for _ in stream:
        pass


@on_each_loop
def test_hubs_leave_no_descriptors_and_no_objects_on_a_loop_that_goes_on(new_loop: Any) -> None:
    async def main() -> None:
        hubs: list[weakref.ref[Any]] = []
        counts = []
        for _ in range(3):
            for _ in range(20):
                hub = Hub()
                hub.on_connect(lambda subscription: None)
                hub.on_disconnect(lambda subscription, reason: None)
                hubs.append(weakref.ref(hub))
                async with connect(hub.endpoint("t"), "/") as client:
                    hub.publish("t", 1)
                    await client.next()
                dropped = hub.subscribe("t")
                await anext(dropped)
                if len(hubs) % 2:
                    await hub.aclose(grace=0)
                del hub, client, dropped
            await asyncio.sleep(0.01)
            gc.collect()
            await asyncio.sleep(0.01)
            counts.append(descriptors())
        assert [hub for hub in hubs if hub() is not None] == []
        assert counts[2] <= counts[0] + 1

    loop = new_loop()
    loop.run_until_complete(main())
    loop.close()


def test_topics_that_are_only_subscribed_to_do_not_pile_up() -> None:
    out = run_program("""
        import asyncio, resource
        from sse_hub import Hub
        hub = Hub()
        async def main():
            sizes = []
            for part in range(3):
                for n in range(20_000):
                    hub.subscribe(f"user:{part}:{n}")
                    if n % 100 == 0:
                        await asyncio.sleep(0)
                sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            print(sizes[2] - sizes[0])
        asyncio.run(main())
    """)
    assert int(out) < 3_500, "KiB for 40,000 topics"


class Session:
    """What an application gives as ``info``."""

    subscription: Any = None
    hub: Any = None


async def test_an_info_that_refers_to_its_subscription_is_collected() -> None:
    hub = Hub()
    told: list[Any] = []
    hub.on_disconnect(lambda subscription, reason: told.append(subscription.info.__class__))
    sessions = []
    for n in range(20):
        session = Session()
        session.subscription = hub.subscribe("t", info=session)
        found = hub.get(session.subscription.id)
        assert found is not None
        assert found.info is session
        await anext(session.subscription)
        if n % 2:
            session.subscription.close()  # The others are open when they are dropped.
        sessions.append(weakref.ref(session))
        del session, found
    await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)
    assert [session for session in sessions if session() is not None] == []
    assert hub.count() == 0
    assert told == [Session] * 20


async def test_a_dropped_hub_is_collected_with_what_refers_to_it() -> None:
    hubs = []
    for n in range(20):
        hub = Hub()
        session = Session()
        session.hub = hub
        hub.on_connect(lambda subscription, hub=hub: None)
        hub.on_disconnect(lambda subscription, reason, hub=hub: None)
        session.subscription = hub.subscribe("t", info=session)
        await anext(session.subscription)
        if n % 2:
            session.subscription.close()
        hubs.append(weakref.ref(hub))
        del hub, session
    await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)
    gc.collect()
    assert [hub for hub in hubs if hub() is not None] == []


@on_each_loop
def test_what_waits_on_a_loop_that_was_closed_is_collected_with_its_hub(new_loop: Any) -> None:
    hubs = []

    async def live(hub: Hub) -> None:
        task = asyncio.create_task(_consume(hub.subscribe("t", info=hub)))
        await asyncio.sleep(0)
        task._log_destroy_pending = False  # type: ignore[attr-defined]

    for _ in range(5):
        hub = Hub()
        hubs.append(weakref.ref(hub))
        loop = new_loop()
        loop.run_until_complete(live(hub))
        loop.close()
        del hub, loop
    gc.collect()
    gc.collect()
    assert [hub for hub in hubs if hub() is not None] == []
