"""What happens around a hub: forks, the interpreter's end, closed loops, and what is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from loops import LOOP_TYPES
from servers import gunicorn, run
from sse_hub import Hub
from sse_hub.testing import connect
from waiting import PATIENCE, promised
from wire import Stream

on_each_loop = pytest.mark.parametrize("new_loop", LOOP_TYPES)


def run_program(source: str) -> str:
    """What the program prints; it must end by itself, with 0, and say nothing on stderr."""
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-c", textwrap.dedent(source)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    return ended.stdout


OPEN_STREAM = """
    import asyncio, os, sys, threading, time
    from sse_hub import Hub
    from sse_hub.testing import connect

    hub = Hub(heartbeat=0.05)
    hub.on_connect(lambda subscription: None)
    hub.on_disconnect(lambda subscription, reason: None)
"""


@pytest.mark.parametrize(
    "end",
    [
        # Streams open when the loop's runner ends.
        """
        async def main():
            global client, stream
            stream = hub.subscribe("t")
            await anext(stream)
            client = await connect(hub.endpoint("t"), "/")
            hub.publish("t", 1)
            await client.next()
            await client.close()
        asyncio.run(main())
        """,
        # A task that waits is cancelled by the runner.
        """
        async def consume():
            async for _ in hub.subscribe("t"):
                pass
        async def main():
            global task
            task = asyncio.create_task(consume())
            await asyncio.sleep(0.01)
        asyncio.run(main())
        """,
        # A loop in a daemon thread runs to the very end, while others publish.
        """
        async def consume():
            async for _ in hub.subscribe("t"):
                pass
        threading.Thread(target=lambda: asyncio.run(consume()), daemon=True).start()
        def publish():
            while True:
                hub.publish("t", "x" * 100)
                time.sleep(0)
        threading.Thread(target=publish, daemon=True).start()
        time.sleep(0.1)
        """,
        # A loop that was closed, and one that never was.
        """
        loop = asyncio.new_event_loop()
        async def main():
            global stream
            stream = hub.subscribe("t")
            await anext(stream)
        loop.run_until_complete(main())
        loop.close()
        hub.publish("t", 1)
        """,
        # sys.exit in the middle, with streams in modules' globals.
        """
        async def main():
            global streams
            streams = [hub.subscribe("t", info=object()) for _ in range(100)]
            for stream in streams:
                await anext(stream)
            sys.exit(0)
        asyncio.run(main())
        """,
    ],
)
def test_the_interpreter_ends_quietly_with_open_streams(end: str) -> None:
    run_program(textwrap.dedent(OPEN_STREAM) + textwrap.dedent(end))


def test_a_forked_child_publishes_and_subscribes_and_the_parent_goes_on() -> None:
    out = run_program(
        textwrap.dedent(OPEN_STREAM)
        + textwrap.dedent("""
        async def one(n):
            async with connect(hub.endpoint("t", replay="all"), "/") as client:
                hub.publish("t", n)
                return [event.data for event in await client.take(hub.stats()["cursor"])]

        kept = []
        async def main():
            kept.append(hub.subscribe("t", info=object()))
            await anext(kept[0])
            hub.publish("t", "before the fork")
            return hub.stats()["epoch"]

        loop = asyncio.new_event_loop()
        epoch = loop.run_until_complete(main())
        stop = threading.Event()
        def noise():
            while not stop.is_set():
                hub.broadcast(0)
                hub.count()
        threads = [threading.Thread(target=noise) for _ in range(3)]
        for thread in threads:
            thread.start()
        children = []
        for _ in range(20):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    assert hub.count() == 0, hub.count()
                    assert hub.stats()["epoch"] != epoch
                    assert asyncio.run(one(1)) == ["1"]
                    assert asyncio.run(one(2)) == ["1", "2"]
                    assert kept[0].send("x").id is None
                    assert kept[0].join("y") is False
                    kept.clear()
                    hub.close()
                    code = 0
                finally:
                    os._exit(code)
            children.append(child)
        for child in children:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        stop.set()
        for thread in threads:
            thread.join()
        assert hub.stats()["epoch"] == epoch
        assert hub.count() == 1
        async def after():
            hub.publish("t", "after")
            wire = b""
            while b"after" not in wire:
                wire += await anext(kept[0])
            kept.clear()
        loop.run_until_complete(after())
        loop.close()
        print("done")
        """)
    )
    assert out == "done\n"


@on_each_loop
def test_a_loop_closed_with_open_streams_stops_nobody_else(new_loop: Any) -> None:
    hub = Hub(backlog_bytes=10_000)

    async def open_one() -> Any:
        stream = hub.subscribe("t")
        await anext(stream)
        return stream

    loop = new_loop()
    stream = loop.run_until_complete(open_one())
    loop.close()
    for n in range(1000):
        hub.publish("t", n)  # Nobody will ever take it: it must not fill the hub.
    stream.close()

    async def consume() -> int:
        async with connect(hub.endpoint("t"), "/") as client:
            hub.publish("t", "again")
            await client.next()
            return hub.count()

    assert asyncio.run(consume()) == 1
    assert hub.stats()["readers"] <= 2


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


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
        assert descriptors() <= before + 1
        assert sum(marker() is not None for marker in markers) <= 1, "the last loop's, at most"
    one(True)
    assert hub.stats()["readers"] <= 2


@on_each_loop
def test_a_stream_whose_loop_was_closed_says_so(new_loop: Any) -> None:
    hub = Hub()

    async def open_some() -> list[Any]:
        streams = [hub.subscribe("t"), hub.subscribe("t"), hub.subscribe("t")]
        streams[2].close()
        return streams

    loop = new_loop()
    stream, other, closed = loop.run_until_complete(open_some())
    assert (stream.closed, other.closed, closed.closed) == (None, None, "closed")
    loop.close()
    assert (stream.closed, other.closed, closed.closed) == ("loop_closed", "loop_closed", "closed")
    assert stream.closed.kind == "closed"
    assert "closed: loop_closed" in repr(stream)
    assert hub.count() == 0
    stream.close()
    assert stream.closed == "loop_closed"


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
    assert descriptors() <= before
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


def test_a_descriptor_that_is_reused_is_never_woken() -> None:
    """A hub that outlives its loop must not write to a number that means something else by now."""
    hub = Hub()

    async def main() -> Any:
        stream = hub.subscribe("t")
        await anext(stream)
        return stream

    stream = asyncio.run(main())
    pipes = [os.pipe() for _ in range(20)]
    for reader, _ in pipes:
        os.set_blocking(reader, False)
    hub.publish("t", 1)
    stream.close()
    del stream
    asyncio.run(main())
    hub.publish("t", 2)
    for reader, writer in pipes:
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
        os.write(writer, b"x")
        assert os.read(reader, 10) == b"x"
        os.close(reader)
        os.close(writer)


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


def test_threads_may_do_anything_while_loops_come_and_go() -> None:
    hub = Hub(history=50)
    stop = threading.Event()
    errors: list[BaseException] = []

    def meddle(n: int) -> None:
        try:
            while not stop.is_set():
                hub.publish(f"t{n}", n)
                for subscription in hub.subscribers():
                    subscription.join(f"j{n}")
                    subscription.send(n)
                    subscription.leave(f"j{n}")
                    assert isinstance(repr(subscription), str)
                    if n == 3:
                        subscription.close(reason="meddled")
                hub.stats()
                hub.disconnect(user="nobody")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=meddle, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()

    async def come_and_go() -> None:
        for _ in range(10):
            async with connect(hub.endpoint(["t0", "t1"], info=object()), "/") as client:
                try:
                    async with asyncio.timeout(0.02):
                        await client.rest()
                except TimeoutError:
                    pass

    for _ in range(3):
        asyncio.run(come_and_go())
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []


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


FORKED = """
    import asyncio, logging, os, sys
    from sse_hub import Hub

    logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
    hub = Hub(name="news")

    def in_child(act):
        sys.stdout.flush()
        if os.fork() == 0:
            try:
                act()
                sys.stdout.flush()
            finally:
                os._exit(0)
        os.wait()

    def publish():
        for _ in range(3):
            hub.publish("t", 1)

    async def serve():
        stream = hub.subscribe("t")
        publish()
        await anext(stream)
"""


@pytest.mark.parametrize(
    ("program", "warnings"),
    [
        ("in_child(publish)", ["published in a forked process in which nobody has subscribed"]),
        (
            """
            async def main():
                stream = hub.subscribe("t")
                in_child(publish)
            asyncio.run(main())
            """,
            ["published in a forked process in which nobody has subscribed"],
        ),
        (
            "publish(); in_child(lambda: asyncio.run(serve()))",
            ["3 events were published before this process was forked"],
        ),
        ("in_child(lambda: asyncio.run(serve()))", []),
        ("in_child(lambda: (asyncio.run(serve()), publish()))", []),
        ("publish()", []),
    ],
    ids=["child", "child-of-a-server", "at-import", "child-serves", "child-served", "no-fork"],
)
def test_a_publication_that_a_fork_keeps_from_its_subscribers_is_told_once(
    program: str, warnings: list[str]
) -> None:
    lines = run_program(textwrap.dedent(FORKED) + textwrap.dedent(program)).splitlines()
    assert len(lines) == len(warnings), lines
    for line, warning in zip(lines, warnings, strict=True):
        assert line.startswith('WARNING hub "news": ')
        assert warning in line
        assert "broker" in line


PRELOADED = """
from contextlib import asynccontextmanager
from sse_hub import Hub
from starlette.applications import Starlette
from starlette.routing import Route

hub = Hub()
hub.publish("t", "at import")

@asynccontextmanager
async def lifespan(app):
    hub.publish("t", "in the lifespan")
    print("lifespan started")
    yield

app = Starlette(routes=[Route("/events", hub.endpoint("t", replay="all"))], lifespan=lifespan)
"""


def test_what_gunicorn_preloads_and_publishes_is_told(tmp_path: Path) -> None:
    (tmp_path / "preloaded.py").write_text(PRELOADED)
    command = gunicorn("preloaded:app", "--preload", processes=1)
    command.env["PYTHONPATH"] += f":{tmp_path}"
    with run(command) as server:
        client = Stream(server.port, "/events")
        try:
            assert client.event().json() == "in the lifespan"
        finally:
            client.close()
    warning = "1 events were published before this process was forked, as at import under gunicorn --preload"
    assert server.output.count(warning) == 1
    assert "in which nobody has subscribed" not in server.output
