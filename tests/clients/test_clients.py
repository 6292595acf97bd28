"""Runs, read by published clients: AI SDK, openai's, AG-UI's, fetch-event-source and httpx-sse.

Each: a reload in mid-run, three readers at once, a stop, a source that fails. The text of every reader is the
run's, and every reader ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from httpx_sse import connect_sse
from live import Server, serve
from sse_hub import Hub
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from waiting import PATIENCE, until

HERE = Path(__file__).parent
NODE = Path(sys.prefix) / "node"

WORDS = ["Once ", "upon ", "a ", "time ", "ünd ", "\u2028", "the end\n"]


class Model:
    """One run per id and format, whose words the test releases."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.words = 0
        self.error: Exception | None = None
        self.app = Starlette(
            routes=[
                Route("/api/chat", self.chat, methods=["POST"]),
                Route("/api/chat/{id}/stream", self.resume),
                Route("/v1/chat/completions", self.completions, methods=["POST"]),
                Route("/agui", self.agui, methods=["POST"]),
                Route("/sse/{id}", self.sse, methods=["POST", "GET"]),
                Route("/run/{id}", self.stop, methods=["DELETE"]),
            ]
        )

    async def said(self) -> AsyncIterator[str]:
        for at, word in enumerate(WORDS):
            while at >= self.words:
                if self.error is not None:
                    raise self.error
                await asyncio.sleep(0.002)
            yield word

    async def ui(self) -> AsyncIterator[Any]:
        yield {"type": "start", "messageId": "m"}
        yield {"type": "text-start", "id": "t"}
        async for word in self.said():
            yield {"type": "text-delta", "id": "t", "delta": word}
        yield {"type": "text-end", "id": "t"}
        yield {"type": "finish"}

    async def chunks(self) -> AsyncIterator[Any]:
        async for word in self.said():
            choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
            yield {
                "id": "c",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "m",
                "choices": [choice],
            }

    async def agent(self) -> AsyncIterator[Any]:
        yield {"type": "RUN_STARTED", "threadId": "t", "runId": "r"}
        yield {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"}
        async for word in self.said():
            yield {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": word}
        yield {"type": "TEXT_MESSAGE_END", "messageId": "m"}
        yield {"type": "RUN_FINISHED", "threadId": "t", "runId": "r"}

    async def start(self, id: str, source: Callable[[], AsyncIterator[Any]], format: Any) -> Response:
        run = await self.hub.run(id, source, error=lambda error: f"sorry: {type(error).__name__}")
        return run.response(format=format)

    async def chat(self, request: Request) -> Response:
        return await self.start((await request.json())["id"], self.ui, "ai-sdk")

    async def resume(self, request: Request) -> Response:
        return self.hub.follow(request.path_params["id"], format="ai-sdk")

    async def completions(self, request: Request) -> Response:
        return await self.start((await request.json())["user"], self.chunks, "openai")

    async def agui(self, request: Request) -> Response:
        return await self.start((await request.json())["threadId"], self.agent, "ag-ui")

    async def sse(self, request: Request) -> Response:
        if request.method == "POST":
            await self.hub.run(
                request.path_params["id"], self.said, error=lambda error: "sorry: RuntimeError"
            )
        return self.hub.follow(request.path_params["id"])

    async def stop(self, request: Request) -> Response:
        return JSONResponse(await self.hub.stop(request.path_params["id"]))


class Reader:
    """What one reader printed."""

    def __init__(self) -> None:
        self.text = ""
        self.end: str | None = None

    def wait(self, text: str) -> None:
        until(lambda: len(self.text) >= len(text) or self.end is not None)
        assert (self.text, self.end) == (text, None)

    def ended(self) -> str:
        until(lambda: self.end is not None)
        assert self.end is not None
        return self.end


class Node:
    """The clients for Node, in one process."""

    def __init__(self) -> None:
        assert (NODE / "node_modules").is_dir(), "the clients for Node are missing: make .venv/.node-ready"
        script = shutil.copy(HERE / "readers.mjs", NODE)  # modules are looked for beside it
        self._process = subprocess.Popen(
            ["node", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self._readers: dict[str, Reader] = {}
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            said = json.loads(line)
            reader = self._readers[said["reader"]]
            reader.text += said.get("text", "")
            reader.end = said.get("end")

    def _say(self, **command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def open(self, client: str, url: str, id: str, again: bool) -> tuple[Reader, Callable[[], None]]:
        name = str(len(self._readers))
        reader = self._readers[name] = Reader()
        self._say(op="open", reader=name, client=client, url=url, id=id, again=again)
        return reader, lambda: self._say(op="abort", reader=name)

    def close(self) -> None:
        self._process.kill()
        self._listener.join()
        with self._process:
            pass  # closes the pipes


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.close()


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[Model, Server]]:
    model = Model()
    with serve(model.app) as server:
        yield model, server


def in_thread(read: Callable[[Reader, queue.SimpleQueue[Any]], str]) -> tuple[Reader, Callable[[], None]]:
    """A reader that is a Python client. Aborting closes what it put into the queue."""
    reader: Reader = Reader()
    opened: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        try:
            reader.end = read(reader, opened)
        except Exception as error:
            reader.end = f"error: {error}"

    threading.Thread(target=run, daemon=True).start()
    return reader, lambda: opened.get(timeout=PATIENCE).close()


def python_openai(url: str, id: str) -> tuple[Reader, Callable[[], None]]:
    def read(reader: Reader, opened: queue.SimpleQueue[Any]) -> str:
        http = httpx.Client(trust_env=False)
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=http)
        stream = client.chat.completions.create(model="m", messages=[], stream=True, user=id)
        opened.put(stream)
        for chunk in stream:
            reader.text += chunk.choices[0].delta.content or ""
        return "done"

    return in_thread(read)


def httpx_sse(url: str, id: str) -> tuple[Reader, Callable[[], None]]:
    def read(reader: Reader, opened: queue.SimpleQueue[Any]) -> str:
        with (
            httpx.Client(trust_env=False, timeout=PATIENCE) as client,
            connect_sse(client, "GET", f"{url}/sse/{id}") as source,
        ):
            opened.put(source.response)
            if source.response.status_code == 204:
                return "nothing"
            for event in source.iter_sse():
                if event.event == "stream-end":
                    end = event.json()
                    return f"error: {end['error']}" if end["state"] == "failed" else str(end["state"])
                if event.event == "message":
                    reader.text += event.json()
        return "no end"

    return in_thread(read)


CLIENTS = ["ai", "openai", "agui", "fetchEventSource", "openai-python", "httpx-sse"]

Open = Callable[..., tuple[Reader, Callable[[], None]]]


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, node: Node, site: tuple[Model, Server]) -> tuple[str, Open, Model]:
    """A client's name, what opens a reader of a run, and the model."""
    model, server = site
    model.words, model.error = 3, None
    name = request.param

    def open_reader(id: str, *, again: bool = False) -> tuple[Reader, Callable[[], None]]:
        if name in ("fetchEventSource", "httpx-sse") and not again:
            with server.http.stream("POST", f"/sse/{id}"):
                pass
        if name == "openai-python":
            return python_openai(server.url, id)
        if name == "httpx-sse":
            return httpx_sse(server.url, id)
        return node.open(name, server.url, id, again)

    return name, open_reader, model


def test_a_reload_in_mid_run_and_three_at_once(client: tuple[str, Open, Model]) -> None:
    name, open_reader, model = client
    first, leave = open_reader(f"{name}:reload")
    first.wait("".join(WORDS[:3]))
    leave()
    readers = [open_reader(f"{name}:reload", again=True)[0] for _ in range(3)]
    for reader in readers:
        reader.wait("".join(WORDS[:3]))
    model.words = len(WORDS)
    for reader in readers:
        assert reader.ended() == "done"
        assert reader.text == "".join(WORDS)


def test_a_stop_ends_every_reader(client: tuple[str, Open, Model], site: tuple[Model, Server]) -> None:
    name, open_reader, _ = client
    readers = [open_reader(f"{name}:stop")[0]]
    readers[0].wait("".join(WORDS[:3]))  # the run has begun
    readers.append(open_reader(f"{name}:stop", again=True)[0])
    readers[1].wait("".join(WORDS[:3]))
    assert site[1].http.delete(f"/run/{name}:stop").json() is True
    for reader in readers:
        ended = reader.ended()
        assert ended == "stopped" or (name.startswith("openai") and "the run was stopped" in ended), ended
        assert reader.text == "".join(WORDS[:3])


def test_a_source_that_fails_fails_every_reader(
    client: tuple[str, Open, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("sse_hub"), "propagate", False)
    name, open_reader, model = client
    readers = [open_reader(f"{name}:fail")[0]]
    readers[0].wait("".join(WORDS[:3]))  # the run has begun
    readers.append(open_reader(f"{name}:fail", again=True)[0])
    readers[1].wait("".join(WORDS[:3]))
    model.error = RuntimeError("the key is 1234")
    for reader in readers:
        ended = reader.ended()
        assert ended.startswith("error: "), ended
        assert "sorry: RuntimeError" in ended, ended
        assert reader.text == "".join(WORDS[:3])


def test_a_reader_that_resumes_a_missing_run_learns_that(node: Node, site: tuple[Model, Server]) -> None:
    for name in ("ai", "fetchEventSource"):
        reader, _ = node.open(name, site[1].url, "nowhere", True)
        assert reader.ended() == "nothing"
