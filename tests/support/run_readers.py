"""Published clients that read runs: those for Node in one process, those for Python in threads."""

from __future__ import annotations

import base64
import json
import queue
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import openai
from httpx_sse import EventSource, connect_sse
from waiting import PATIENCE, until
from wire import of_the_run

HERE = Path(__file__).parent.parent / "clients"
NODE = Path(sys.prefix) / "node"

# Each client, and the format of the runs that it reads.
CLIENTS = {
    "ai": "ai-sdk",
    "openai": "openai",
    "agui": "ag-ui",
    "fetchEventSource": None,
    "openai-python": "openai",
    "httpx-sse": None,
}


class Reader:
    """What one reader printed."""

    def __init__(self) -> None:
        self.text = ""
        self.end: str | None = None
        self.bodies: dict[int, bytes] = defaultdict(bytes)  # of its responses, in their order

    def received(self) -> list[bytes]:
        """The run's bytes in each response."""
        return [of_the_run(self.bodies[number]) for number in sorted(self.bodies)]

    def wait(self, text: str) -> None:
        until(lambda: len(self.text) >= len(text) or self.end is not None)
        assert (self.text, self.end) == (text, None)

    def ended(self) -> str:
        until(lambda: self.end is not None)
        assert self.end is not None
        return self.end


# A reader, and what makes it leave.
Opened: TypeAlias = tuple[Reader, Callable[[], None]]


class Readers:
    """Opens readers of any client."""

    def __init__(self) -> None:
        assert (NODE / "node_modules").is_dir(), "the clients for Node are missing: make .venv/.node-ready"
        script = shutil.copy(HERE / "readers.mjs", NODE)  # modules are looked for beside it
        self._process = subprocess.Popen(
            ["node", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self._readers: dict[str, Reader] = {}
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def open(self, client: str, url: str, id: str, *, again: bool = False, resumes: bool = False) -> Opened:
        """A reader of this run; unless it comes again, it starts the run.

        One that resumes comes back with the last id when its connection breaks.
        """
        if client in ("fetchEventSource", "httpx-sse") and not again:
            with (
                httpx.Client(trust_env=False, timeout=PATIENCE) as http,
                http.stream("POST", f"{url}/sse/{id}"),
            ):
                pass
        if client == "openai-python":
            return python_openai(url, id)
        if client == "httpx-sse":
            return httpx_sse(url, id, resumes)
        name = str(len(self._readers))
        reader = self._readers[name] = Reader()
        self._say(op="open", reader=name, client=client, url=url, id=id, again=again, resumes=resumes)
        return reader, lambda: self._say(op="abort", reader=name)

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            said = json.loads(line)
            reader = self._readers[said["reader"]]
            reader.text += said.get("text", "")
            if (bytes_ := said.get("bytes")) is not None:
                reader.bodies[said["body"]] += base64.b64decode(bytes_)
            reader.end = said.get("end", reader.end)

    def _say(self, **command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        self._process.kill()
        self._listener.join()
        with self._process:
            pass  # closes the pipes


def in_thread(read: Callable[[Reader, queue.SimpleQueue[Any]], str]) -> Opened:
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


class Recording(httpx.HTTPTransport):
    """Adds the bytes of every body to what its reader received."""

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self._reader = reader
        self._responses = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = Recorded(response.stream, self._reader, self._responses)
        self._responses += 1
        return response


class Recorded(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, reader: Reader, number: int) -> None:
        self._stream, self._reader, self._number = stream, reader, number

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._reader.bodies[self._number] += chunk
            yield chunk

    def close(self) -> None:
        self._stream.close()


def python_openai(url: str, id: str) -> Opened:
    def read(reader: Reader, opened: queue.SimpleQueue[Any]) -> str:
        http = httpx.Client(transport=Recording(reader))
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=http)
        stream = client.chat.completions.create(model="m", messages=[], stream=True, user=id)
        opened.put(stream)
        for chunk in stream:
            reader.text += chunk.choices[0].delta.content or ""
        return "done"

    return in_thread(read)


def httpx_sse(url: str, id: str, resumes: bool) -> Opened:
    def read(reader: Reader, opened: queue.SimpleQueue[Any]) -> str:
        headers: dict[str, str] = {}
        with httpx.Client(transport=Recording(reader), timeout=PATIENCE) as client:
            while True:
                try:
                    with connect_sse(client, "GET", f"{url}/sse/{id}", headers=headers) as source:
                        opened.put(source.response)
                        return read_one(reader, source, headers)
                except httpx.TransportError:
                    if not resumes:
                        raise

    def read_one(reader: Reader, source: EventSource, headers: dict[str, str]) -> str:
        if source.response.status_code == 204:
            return "nothing"
        for event in source.iter_sse():
            headers["Last-Event-ID"] = event.id
            if event.event == "stream-end":
                end = event.json()
                return f"error: {end['error']}" if end["state"] == "failed" else str(end["state"])
            if event.event == "message":
                reader.text += event.json()
        return "no end"

    return in_thread(read)
