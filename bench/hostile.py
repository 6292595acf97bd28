"""What hostile clients cost a server, and what they cost a client that does nothing wrong.

    python -m bench.hostile

One uvicorn, whose application checks nothing and hands its streams off. Beside each scene a well-behaved
client receives a tick every 10 ms, and measures how late each one is.
"""

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx

from bench.servers import ROOT

HOST = "127.0.0.1"
HEAD = f"HTTP/1.1\r\nHost: {HOST}\r\nAccept: text/event-stream\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Scene = Callable[["Site", int], Awaitable[str]]


class Site:
    """The server, and the figures that it reports of itself."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.http = httpx.AsyncClient(base_url=f"http://{HOST}:{port}", timeout=60, trust_env=False)

    async def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.http.get("/stats")).json()
        return found

    async def connect(self, request: str, end: str = "\r\n", buffer: int | None = None) -> Streams:
        sock = socket.socket()
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (HOST, self.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=2**20)
        writer.write(f"{request} {HEAD}{end}".encode())
        await writer.drain()
        return reader, writer

    async def stream(self, query: str = "", buffer: int | None = None) -> Streams:
        """A stream that has opened."""
        reader, writer = await self.connect(f"GET /events?{query}", buffer=buffer)
        await reader.readuntil(b"stream-open")
        return reader, writer

    async def settled(self, subscribers: int) -> dict[str, Any]:
        """The figures once only so many subscribers are left."""
        while (stats := await self.stats())["subscribers"] > subscribers:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return stats


def close(streams: list[Streams]) -> None:
    for _, writer in streams:
        writer.close()


async def late(site: Site, delays: list[float]) -> None:
    """Receive ticks, and note how late each one is, in milliseconds."""
    reader, _ = await site.stream()
    while line := await reader.readline():
        if line.startswith(b"data: ") and len(line) > 7:
            delays.append((time.monotonic() - float(line[6:])) * 1000)


async def nothing(site: Site, size: int) -> str:
    await asyncio.sleep(5)
    return "for comparison"


async def topics(site: Site, size: int) -> str:
    """Streams of 10,000 topics each, no two of which share one."""
    before, streams, times = (await site.stats())["rss"], [], []
    for n in range(size):
        began = time.monotonic()
        streams.append(await site.stream(f"first={n * 10_000}&topics=10000"))
        times.append(time.monotonic() - began)
    during = await site.stats()
    close(streams)
    after = await site.settled(1)
    return (
        f"{size} streams of 10,000 topics: {statistics.median(times) * 1000:.0f} ms each to open,"
        f" {(during['rss'] - before) / size / 1e6:.1f} MB each; {after['topics']} topics are left"
    )


async def limited(site: Site, size: int) -> str:
    """The same requests to a hub with a limit."""
    before = (await site.stats())["cpu"]
    for _ in range(size):
        answer = await site.http.get("/limited", params={"topics": 10_000})
        assert answer.status_code == 400
    cpu = ((await site.stats())["cpu"] - before) / size
    return (
        f"{size} requests for 10,000 topics of a hub with `max_topics=100`: answered 400,"
        f" {cpu * 1000:.0f} ms of CPU each"
    )


async def ids(site: Site, size: int) -> str:
    """Ids of 64 KB, in the header and in the query."""
    before, answers = (await site.stats())["rss"], []
    for n in range(size):
        query, header = ("last_event_id=" + "x" * 65_000, "") if n % 2 else ("", "x" * 65_000)
        headers = f"Last-Event-ID: {header}\r\n" if header else ""
        reader, writer = await site.connect(f"GET /events?{query}", f"{headers}\r\n")
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
                answers.append(int(head.split()[1]))
                if answers[-1] == 200:
                    await reader.readuntil(b'"requested":null')
        writer.close()
    rss = ((await site.settled(1))["rss"] - before) / 1e6
    return (
        f"{size} ids of 65,000 bytes: answered {sorted(set(answers))}, each 200 with a reset; {rss:+.1f} MB"
    )


async def flood(site: Site, size: int) -> str:
    """A client that sends as fast as it can on its stream's connection, and comes back when it is cut."""
    before, end, floods, sent = await site.stats(), time.monotonic() + size, 0, 0
    while time.monotonic() < end:
        _, writer = await site.stream()
        floods += 1
        with suppress(ConnectionError):
            while True:
                writer.write(b"x" * 8192)
                await writer.drain()
                sent += 8192
                await asyncio.sleep(0)
        writer.close()
    after = await site.settled(1)
    return (
        f"cut after {sent / floods / 1000:.0f} KB written, {floods / size:.0f} times a second;"
        f" {(after['rss'] - before['rss']) / 1e6:+.1f} MB"
    )


async def storm(site: Site, size: int) -> str:
    """Clients that connect and leave, as fast as 50 at once can."""
    before, end, count = await site.stats(), time.monotonic() + size, 0

    async def come_and_go() -> None:
        nonlocal count
        while time.monotonic() < end:
            _, writer = await site.stream()
            writer.transport.abort()
            count += 1

    await asyncio.gather(*(come_and_go() for _ in range(50)))
    after = await site.settled(1)
    return f"{count / size:.0f} connections a second; {(after['rss'] - before['rss']) / 1e6:+.1f} MB"


async def slow_requests(site: Site, size: int) -> str:
    """Slowloris before the hand-off: heads that never end, one byte a second."""
    before, streams = (await site.stats())["rss"], []
    for _ in range(size):
        streams.append(await site.connect("GET /events", "X: "))
    for _ in range(5):
        await asyncio.sleep(1)
        for _, writer in streams:
            writer.write(b"x")
    rss = ((await site.stats())["rss"] - before) / size / 1000
    close(streams)
    return f"{size} unfinished heads, {rss:.1f} KB each; the server cuts none of them"


async def slow_readers(site: Site, size: int) -> str:
    """Slowloris after the hand-off: clients that read one byte a second of what they asked for."""
    before, streams = (await site.stats())["rss"], []
    for _ in range(size):
        reader, writer = await site.stream("topic=bulk", buffer=4096)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        streams.append((reader, writer))
    most, filling = 0, asyncio.create_task(site.http.post("/fill", params={"kb": 4000}))
    while not filling.done():
        await asyncio.sleep(1)
        most = max(most, (await site.stats())["rss"])
        for _, writer in streams:
            with suppress(BlockingIOError, OSError):
                writer.get_extra_info("socket")._sock.recv(1)
    during = await site.stats()
    assert during["subscribers"] + during["overflowed"] == size + 1
    rss, left = (most - before) / size / 1000, during["subscribers"] - 1
    close(streams)
    await site.settled(1)
    return (
        f"4 MB in 5 s for {size} clients that read a byte a second: {rss:.1f} KB each at most;"
        f" {during['overflowed']} were cut for overflow, {left} were not"
    )


SCENES: dict[str, tuple[Scene, int]] = {
    "nothing": (nothing, 0),
    "topics": (topics, 20),
    "limited topics": (limited, 100),
    "ids": (ids, 100),
    "flood": (flood, 5),
    "storm": (storm, 5),
    "slow requests": (slow_requests, 500),
    "slow readers": (slow_readers, 500),
}


@asynccontextmanager
async def serving() -> AsyncIterator[Site]:
    command = [sys.executable, "-m", "uvicorn", "bench.peers.hostile_app:app", "--port", "0"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "python")])}
    server = subprocess.Popen(  # noqa: ASYNC220
        [*command, "--no-access-log"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stderr is not None
        port = next(int(found[1]) for line in server.stderr if (found := re.search(r"http://.*:(\d+)", line)))
        asyncio.get_running_loop().run_in_executor(None, server.stderr.read)
        yield Site(port)
    finally:
        server.terminate()
        server.wait()


async def measure(names: list[str]) -> list[dict[str, Any]]:
    rows = []
    for name in names:
        scene, size = SCENES[name]
        async with serving() as site:
            delays: list[float] = []
            bystander = asyncio.create_task(late(site, delays))
            await asyncio.sleep(1)
            delays.clear()
            said = await scene(site, size)
            bystander.cancel()
            centiles = statistics.quantiles(delays, n=100)
            rows.append({"scene": name, "p50_ms": centiles[49], "p99_ms": centiles[98], "said": said})
    return rows


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.hostile", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--scenes", default=",".join(SCENES), help="[%(default)s]")
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    options = parser.parse_args()
    rows = asyncio.run(measure(options.scenes.split(",")))
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print("| scene | what it costs | another client's events are late by, ms: p50, p99 |\n|---|---|---|")
    for row in rows:
        print(f"| {row['scene']} | {row['said']} | {row['p50_ms']:.1f}, {row['p99_ms']:.1f} |")


if __name__ == "__main__":
    main()
