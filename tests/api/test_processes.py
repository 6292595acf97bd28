"""What happens around a hub: forks, the interpreter's end, closed loops, and what is left behind."""

from __future__ import annotations

import asyncio
import os
import textwrap
import threading
from typing import Any

import pytest
from loops import on_each_loop
from programs import OPEN_STREAM, run_program
from sse_hub import Hub
from sse_hub.testing import connect


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
