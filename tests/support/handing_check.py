"""Whether streams leave the uvicorn that is installed here: a program of its own, for versions of uvicorn.

It serves with each HTTP implementation and event loop, in threads, and is its own client. It prints what it
saw, a line for each server.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from hub_streams import add_streams
from servers import Client
from sse_hub import EventSourceResponse, Hub
from waiting import until
from wire import Stream


def build(hub: Hub, *, relayed: bool) -> FastAPI:
    app = FastAPI()
    add_streams(app, hub)

    @app.get("/generator")
    async def generator(request: Request) -> Response:
        async def events() -> AsyncIterator[str]:
            # Middleware that runs the application in a task of its own hides the truth.
            yield f"left: {not relayed and await request.is_disconnected()}"
            await asyncio.get_running_loop().create_future()

        return EventSourceResponse(events(), handoff=True)

    @app.get("/plain")
    async def plain() -> dict[str, str]:
        return {"plain": "answer"}

    if relayed:

        @app.middleware("http")
        async def relay(request: Request, call_next: Any) -> Response:
            await request.body()
            answer: Response = await call_next(request)
            return answer

    return app


def check(loop: Any, http: Any, *, relayed: bool) -> str:
    hub = Hub(heartbeat=None)
    config = uvicorn.Config(build(hub, relayed=relayed), port=0, loop=loop, http=http, log_level="warning")
    listener = config.bind_socket()
    port = listener.getsockname()[1]
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    with (
        Stream(port, "/response") as one,
        Stream(port, "/subscription") as other,
        Client(port, "/generator") as let_go,
        Client(port, "/plain") as kept,
        Client(port, "/response", headers="\r\nGET /plain HTTP/1.1\r\nHost: x\r\n") as pipelined,
    ):
        one.opened()
        other.opened()
        let_go.read_until(b"data: left: False\r\n\r\n")
        kept.read_until(b"answer")
        kept.read_until(b"}")
        kept.sock.sendall(b"GET /response HTTP/1.1\r\nHost: x\r\n\r\n")
        kept.read_until(b"stream-open")
        pipelined.read_until(b"stream-open")
        until(lambda: len(hub.subscribers()) == 4)
        stayed = sum(hub.stats()["stayed"].values())
        until(lambda: len(server.server_state.connections) == stayed)
        hub.publish("t", "tick")
        for stream in (one, other):
            assert stream.take(1) == ["tick"]
        for client in (kept, pipelined):
            client.read_until(b'data: "tick"\n\n')
        stats = hub.stats()
        # The stream that stayed ends, and the request behind it on the connection is answered.
        for each in hub.subscribers():
            if each.path == "loop":
                each.close()
        pipelined.read_until(b"answer")
        server.should_exit = True
        for stream in (one, other):
            assert stream.rest() == []
            assert stream.ended
        assert let_go.read_to_end().endswith(b"0\r\n\r\n")
        thread.join(20)
        assert not thread.is_alive()
    hub.close()
    return f"handed off {stats['handed_off']}, stayed {stats['stayed']}"


def main() -> None:
    for loop in ("asyncio", "uvloop"):
        for http in ("httptools", "h11"):
            for relayed in (False, True):
                outcome = check(loop, http, relayed=relayed)
                if "'late'" in outcome:  # the machine was busy for a quarter of a second
                    outcome = check(loop, http, relayed=relayed)
                print(f"{loop} {http} {relayed}:", outcome, flush=True)
    print(f"uvicorn {uvicorn.__version__}")


if __name__ == "__main__":
    main()
