"""What users of sse-starlette write for an answer that several clients watch: a task, a queue for each."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI
from sse_starlette import EventSourceResponse

from bench.peers.grouped import Groups, generate

app = FastAPI()
groups: Groups[asyncio.Queue[str | None]] = Groups()
tasks: set[asyncio.Task[None]] = set()


async def produce(queues: list[asyncio.Queue[str | None]], n: int, size: int, pause: float | None) -> None:
    async for token in generate(n, size, pause):
        for queue in queues:
            queue.put_nowait(token)
    for queue in queues:
        queue.put_nowait(None)


async def watch(queue: asyncio.Queue[str | None]) -> AsyncIterator[dict[str, str]]:
    while (token := await queue.get()) is not None:
        yield {"data": token}


@app.get("/tokens")
async def tokens(
    n: int, bytes: int = 128, pause: float | None = None, watchers: int = 1
) -> EventSourceResponse:
    queue: asyncio.Queue[str | None] = asyncio.Queue()
    _, queues = await groups.join(watchers, queue)
    if queues is not None:
        tasks.add(task := asyncio.create_task(produce(queues, n, bytes, pause)))
        task.add_done_callback(tasks.discard)
    return EventSourceResponse(watch(queue))
