"""The floor of token streams: asyncio and `send(2)`, a task for each client, of HTTP the head alone.

    python -m bench.peers.bare_loop PORT

Not a server to use. Each event is encoded by an f-string and written by itself, on uvloop.
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from urllib.parse import parse_qsl, urlsplit

import uvloop

from bench.peers.common import text

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


async def generate(n: int, size: int, pause: float | None) -> AsyncIterator[str]:
    for seq in range(n):
        if pause is not None:
            await asyncio.sleep(pause)
        yield text(seq, size)


async def relay(n: int, size: int) -> AsyncIterator[str]:
    queue: asyncio.Queue[str] = asyncio.Queue(1)

    async def produce() -> None:
        for seq in range(n):
            await queue.put(text(seq, size))

    producer = asyncio.create_task(produce())
    for _ in range(n):
        yield await queue.get()
    await producer


async def serve(client: socket.socket) -> None:
    """Answer one client's requests until it leaves."""
    loop = asyncio.get_running_loop()
    with client:
        while request := await loop.sock_recv(client, 4096):
            query = dict(parse_qsl(urlsplit(request.split(b" ", 2)[1].decode()).query))
            n, size = int(query.get("n", "1")), int(query.get("bytes", "128"))
            pause = float(query["pause"]) if "pause" in query else None
            await loop.sock_sendall(client, HEAD)
            async for data in relay(n, size) if "queue" in query else generate(n, size, pause):
                event = f"data: {data}\n\n".encode()
                chunk = b"%x\r\n%s\r\n" % (len(event), event)
                try:
                    sent = client.send(chunk)
                except BlockingIOError:
                    sent = 0
                if sent < len(chunk):
                    await loop.sock_sendall(client, chunk[sent:])
            await loop.sock_sendall(client, b"0\r\n\r\n")


async def main(port: int) -> None:
    """Accept for ever."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    with socket.create_server(("127.0.0.1", port), backlog=4096) as listener:
        listener.setblocking(False)
        while True:
            client, _ = await loop.sock_accept(listener)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.create_task(serve(client))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
