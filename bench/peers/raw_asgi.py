"""No framework: an ASGI app that sends bytes encoded once from a queue per client. Python's floor."""

import asyncio
import json
from typing import Any

from bench.peers.common import Publisher, query, text

HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")],
}
clients: set[asyncio.Queue[bytes]] = set()


async def pump(queue: asyncio.Queue[bytes], send: Any) -> None:
    while True:
        await send({"type": "http.response.body", "body": await queue.get(), "more_body": True})


async def events(receive: Any, send: Any) -> None:
    await send(HEAD)
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    clients.add(queue)
    task = asyncio.create_task(pump(queue, send))
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    finally:
        clients.discard(queue)
        task.cancel()


async def tokens(scope: Any, send: Any) -> None:
    given = query(scope)
    pause = float(given["pause"]) if "pause" in given else None
    await send(HEAD)
    for seq in range(int(given["n"])):
        if pause is not None:
            await asyncio.sleep(pause)
        frame = f"data: {text(seq, int(given['bytes']))}\n\n".encode()
        await send({"type": "http.response.body", "body": frame, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def fan_out(data: str) -> None:
    frame = f"data: {data}\n\n".encode()
    for queue in clients:
        queue.put_nowait(frame)


publisher = Publisher(fan_out)


async def answer(send: Any, value: Any) -> None:
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise RuntimeError("HTTP only")
    match scope["path"]:
        case "/events":
            await events(receive, send)
        case "/tokens":
            await tokens(scope, send)
        case "/publish":
            given = query(scope)
            batch = int(given.get("batch", "1"))
            cost = await publisher.run(int(given["n"]), float(given["rate"]), int(given["bytes"]), batch)
            await answer(send, cost)
        case "/count":
            await answer(send, {"count": len(clients)})
        case _:
            await answer(send, {"pong": True})
