"""A server stops while its process drives runs that nobody watches there."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack

import pytest
from file_server import FileServer
from run_sources import end, transcript
from servers import (
    Client,
    Command,
    ServerProcess,
    ThreadServer,
    granian,
    gunicorn,
    hypercorn,
    run,
    staying,
    uvicorn,
)
from sse_hub import Hub
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from waiting import PATIENCE, promised, until_async

RUNS = ("of the lifespan", "of-a-request")
SERVERS: dict[str, Callable[[str], Command]] = {
    "uvicorn": uvicorn,
    "gunicorn": gunicorn,
    "hypercorn": hypercorn,
    "granian": granian,
}


@pytest.mark.parametrize("server", SERVERS)
async def test_runs_without_a_stream_end_with_their_server(server: str) -> None:
    with FileServer() as files:
        command = SERVERS[server]("quiet_runs_app:app")
        command.env["SSE_HUB_URL"] = files.url
        async with Hub(files.url) as elsewhere:
            with run(command) as process:
                with Client(process.port, f"/runs/{RUNS[1]}", method="POST") as client:
                    client.read_until(b'"running"')
                watchers = [asyncio.create_task(transcript(elsewhere, name)) for name in RUNS]
                await until_async(lambda: all(elsewhere.count(name) == 1 for name in RUNS))
                process.terminate()
                for watcher in watchers:
                    assert await asyncio.wait_for(watcher, PATIENCE) == ['"begun"', end("stopped")]
                await asyncio.to_thread(process.wait)
    for name in RUNS:
        said = process.output
        closed, saved = (said.index(f"{word} {name}") for word in ("finally of", "saved"))
        assert f"saved {name}: stopped ['begun']" in said
        assert closed < saved < said.index("lifespan ended"), "the server waits for `on_finish`, too"


GRACE = 1.0  # of deaf_runs_app.py
DEAF = ("deaf", "slow", "blocked")


@pytest.mark.parametrize(
    ("command", "stop"),
    [
        (lambda: staying(uvicorn("deaf_runs_app:app")), ServerProcess.terminate),
        (lambda: uvicorn("deaf_runs_app:app"), ServerProcess.interrupt),
    ],
    ids=["uvicorn", "uvicorn-ctrl-c"],
)
async def test_functions_that_do_not_return_hold_no_server_up(
    command: Callable[[], Command], stop: Callable[[ServerProcess], None]
) -> None:
    with FileServer() as files:
        start = command()
        start.env["SSE_HUB_URL"] = files.url
        async with Hub(files.url) as elsewhere:
            with run(start) as process, ExitStack() as stack:
                here = [stack.enter_context(Client(process.port, f"/{name}", method="POST")) for name in DEAF]
                for client in here:
                    client.read_until(b"begun")
                watchers = [asyncio.create_task(transcript(elsewhere, name)) for name in DEAF]
                await until_async(lambda: all(elsewhere.count(name) == 1 for name in DEAF))
                began = time.monotonic()
                stop(process)
                for watcher in watchers:
                    assert await asyncio.wait_for(watcher, PATIENCE) == ['"begun"', end("stopped")]
                for client in here:
                    assert client.read_to_end().endswith(b'{"state":"stopped"}\n\n\r\n0\r\n\r\n')
                assert time.monotonic() - began < promised(GRACE)
                assert await asyncio.to_thread(process.wait) in (0, -15)
                assert time.monotonic() - began < promised(GRACE + 1.0)
    said = process.output
    assert all(f"run {name!r} was stopped, and its function has not returned" in said for name in DEAF)
    assert "could not be closed" not in said
    assert "lifespan ended" in said


def test_a_run_goes_on_with_another_server_of_its_loop() -> None:
    hub = Hub()

    async def source() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    async def start(request: Request) -> PlainTextResponse:
        return PlainTextResponse((await hub.run("r", source)).state)

    app = Starlette(routes=[Route("/start", start)])
    with hub, ThreadServer(app, app) as servers:
        with Client(servers.ports[0], "/start") as client:
            client.read_until(b"running")
        servers.stop(0)
        servers.wait(0)
        assert hub.stats()["runs"]["running"] == 1
        servers.stop(1)
        servers.wait(1)
        assert hub.stats()["runs"]["stopped"] == 1


def test_a_run_that_begins_while_its_server_stops_ends_with_it() -> None:
    hub, begins = Hub(), threading.Event()

    async def source() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    async def start(request: Request) -> PlainTextResponse:
        run = await hub.run("first", source)
        begins.set()
        await run.wait()
        return PlainTextResponse((await hub.run("second", source)).state)

    with hub, ThreadServer(Starlette(routes=[Route("/start", start)])) as server:
        with Client(server.port, "/start") as client:
            assert begins.wait(PATIENCE)
            server.stop()
            client.read_until(b"running")
            server.wait()
        assert hub.stats()["runs"]["stopped"] == 2
