"""Events of a generator that follow each other fast go out together; none waits for one that never comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from threading import Thread
from typing import Any

import pytest
from fastapi import FastAPI
from let_go import chunks_of, client, read_to_end
from live import serve
from programs import run_program
from sse_hub import EventSourceResponse
from waiting import until

EVENTS = 1000


async def after_turns() -> AsyncIterator[str]:
    for number in range(EVENTS):
        await asyncio.sleep(0)
        yield f"{number}"


async def from_another_task(*, more: bool = False) -> AsyncIterator[str]:
    queue: asyncio.Queue[str] = asyncio.Queue(1)

    async def produce() -> None:
        for number in range(EVENTS):
            await queue.put(f"{number}")

    producer = asyncio.create_task(produce())
    for _ in range(EVENTS):
        yield await queue.get()
    await producer
    if more:
        await asyncio.Event().wait()


async def until_cancelled() -> AsyncIterator[str]:
    async for event in from_another_task(more=True):
        yield event


def app_with(content: Callable[[], AsyncIterator[str]], handoff: bool | None = None) -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def events() -> EventSourceResponse:
        return EventSourceResponse(content(), ping=0, sep="\n", handoff=handoff)

    return app


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("handoff", [None, True])
@pytest.mark.parametrize("content", [after_turns, from_another_task])
def test_events_that_follow_closely_go_out_together(content: Any, handoff: bool | None, loop: str) -> None:
    app = app_with(content, handoff)
    with serve(app, loop=loop) as server, client(server, headers="Connection: close\r\n") as reader:
        chunks = [chunk for chunk in chunks_of(read_to_end(reader)) if not chunk.startswith(b":")]
    assert b"".join(chunks) == b"".join(b"data: %d\n\n" % number for number in range(EVENTS))
    assert chunks[0] == b"data: 0\n\n", "the first event waits for no other"
    assert len(chunks) < EVENTS * 0.9


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("handoff", [None, True])
def test_the_last_event_before_a_long_wait_is_written(handoff: bool | None, loop: str) -> None:
    app = app_with(until_cancelled, handoff)
    with serve(app, loop=loop) as server, server.stream("/") as events:
        assert [events.next().data for _ in range(EVENTS)] == [str(number) for number in range(EVENTS)]


@pytest.mark.parametrize("handoff", [None, True])
def test_events_from_before_its_end_reach_the_client_of_content_that_ignores_it(handoff: bool | None) -> None:
    begun: list[None] = []
    last: list[int] = []

    async def content() -> AsyncIterator[str]:
        number = 0
        try:
            while True:
                # As from another task, in the loop's next turn: something is held nearly always.
                done = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().call_soon(done.set_result, None)
                await done
                yield f"{number}"
                number += 1
                if number == 10:
                    begun.append(None)
        except asyncio.CancelledError:
            last.append(number - 1)
            yield "too late"

    answers: list[bytes] = []
    with ExitStack() as clients:
        with serve(app_with(content, handoff)) as server:
            readers = [clients.enter_context(client(server)) for _ in range(8)]
            reading = [Thread(target=lambda it=it: answers.append(read_to_end(it))) for it in readers]
            for thread in reading:
                thread.start()
            until(lambda: len(begun) == len(readers))
        for thread in reading:
            thread.join()
    received = [int(b"".join(chunks_of(answer)).split(b"data: ")[-1]) for answer in answers]
    assert sorted(received) == sorted(last)


def test_loops_that_run_by_turns_in_one_thread_each_write_what_is_held() -> None:
    printed = run_program("""
        import asyncio, contextlib, os, socket, warnings

        # An old uvicorn uses what a new Python deprecates.
        warnings.simplefilter("ignore")

        import uvicorn
        from sse_hub import EventSourceResponse

        async def content():
            loop = asyncio.get_running_loop()
            for event in "abc":
                yield event
                # Resumed in the loop's next turn, as by another task.
                next = loop.create_future()
                if event == "c":
                    loop.call_soon(loop.stop)
                else:
                    loop.call_soon(next.set_result, None)
                await next

        async def app(scope, receive, send):
            await EventSourceResponse(content(), ping=0, sep="\\n")(scope, receive, send)

        def begin(loop):
            server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical"))
            server.capture_signals = contextlib.nullcontext
            listening = socket.create_server(("127.0.0.1", 0))
            loop.create_task(server.serve(sockets=[listening]))
            client = socket.create_connection(listening.getsockname(), 60)
            client.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
            return client

        loops = [asyncio.new_event_loop(), asyncio.new_event_loop()]
        clients = [begin(loop) for loop in loops]
        for loop in loops:
            loop.run_forever()  # until the content stops it
        for loop, client in zip(loops, clients):
            loop.call_later(0.05, loop.stop)
            loop.run_forever()
            received = b""
            client.settimeout(5)
            with contextlib.suppress(TimeoutError):
                while b"data: c" not in received:
                    received += client.recv(65536)
            print(received.count(b"data: "), flush=True)
        os._exit(0)
    """)
    assert printed.split() == ["3", "3"]


def test_a_loop_that_was_closed_while_events_were_held_leaves_the_next_alone() -> None:
    printed = run_program("""
        import asyncio, http.client, socket, sys, threading, warnings

        # The first loop leaves everything open, and an old uvicorn uses what a new Python deprecates.
        warnings.simplefilter("ignore")
        sys.unraisablehook = lambda _: None

        import uvicorn
        from sse_hub import EventSourceResponse

        last = False

        async def content():
            for event in "abcd":
                yield event
                if event == "c" and not last:
                    asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)
                # Resumed in the loop's next turn, as by another task.
                next = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().call_soon(next.set_result, None)
                await next
            await asyncio.Event().wait()

        async def app(scope, receive, send):
            await EventSourceResponse(content(), ping=0)(scope, receive, send)

        def read():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/")
            answer = connection.getresponse()
            while last and (line := answer.readline()):
                if line.startswith(b"data: "):
                    print(line.decode().strip())
                if line.startswith(b"data: d"):
                    server.should_exit = True
            connection.close()

        for last in (False, True):
            loop = asyncio.new_event_loop()
            loop.set_exception_handler(lambda loop, context: None)
            with socket.create_server(("127.0.0.1", 0)) as listening:
                port = listening.getsockname()[1]
                server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical"))
                serving = loop.create_task(server.serve(sockets=[listening]))
                reading = threading.Thread(target=read)
                reading.start()
                loop.run_until_complete(serving) if last else loop.run_forever()
                loop.close()
                reading.join()
    """)
    assert printed.split("\n") == ["data: a", "data: b", "data: c", "data: d", ""]
