"""Runs, read by published clients: AI SDK, openai's, AG-UI's, fetch-event-source and httpx-sse.

Each: a reload in mid-run, three readers at once, a stop, a source that fails; those that keep ids: a line
that breaks. What every reader receives is the run, byte for byte, and every reader ends. In one process, and
at two workers over a broker, one of which is killed; events of these carry a trace, a field that none of
these clients knows.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import httpx
import pytest
from browser_support import Proxy
from clients_app import WORDS, Model
from file_server import FileServer
from live import serve
from redis_server import RedisServer
from run_readers import CLIENTS, Opened, Reader, Readers
from servers import ServerProcess, run, uvicorn
from sse_hub import Hub
from waiting import PATIENCE, promised, until
from wire import of_the_run

SAID = "".join(WORDS[:3])
WHOLE = "".join(WORDS)
numbers = itertools.count()


class Site:
    """Where the readers of a test connect: the first worker begins the runs."""

    def __init__(
        self, readers: Readers, urls: list[str], processes: list[ServerProcess] | None = None
    ) -> None:
        self.readers = readers
        self.urls = urls
        self.processes = processes or []
        # A connection for each request: a worker closes one that was idle, perhaps as a request comes.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.Client(trust_env=False, limits=limits, timeout=PATIENCE)

    def port(self, worker: int) -> int:
        return httpx.URL(self.urls[worker]).port or 0

    def begin(self, client: str) -> tuple[str, Opened]:
        """A run that has said three words, and its first reader."""
        id = f"{client}-{next(numbers)}"
        first = self.readers.open(client, self.urls[0], id)
        first[0].wait(SAID)
        return id, first

    def come(self, client: str, id: str, worker: int = -1) -> Reader:
        """Another reader of the run, at the last worker unless told otherwise, which has what was said."""
        reader = self.readers.open(client, self.urls[worker], id, again=True)[0]
        reader.wait(SAID)
        return reader

    def agree(self, client: str, id: str, *readers: Reader) -> bytes:
        """Every reader has received the run as every worker has it, which is returned."""
        whole, *others = [self.transcript(client, id, url) for url in self.urls]
        assert others == [whole] * len(others)
        for reader in readers:
            assert reader.received() == [whole]
        return whole

    def transcript(self, client: str, id: str, url: str) -> bytes:
        """What a worker has of a run in the format of a client."""
        format = CLIENTS[client]
        response = self.http.get(f"{url}/transcript/{id}", params={"format": format} if format else {})
        return of_the_run(response.content)

    def came_with(self, id: str) -> Any:
        """The Last-Event-ID of each request for the events of a run at the last worker."""
        return self.http.get(f"{self.urls[-1]}/run/{id}").json()

    def release(self, id: str, query: str = f"words={len(WORDS)}") -> None:
        self.http.put(f"{self.urls[0]}/run/{id}?{query}").raise_for_status()

    def stop(self, id: str) -> Any:
        return self.http.delete(f"{self.urls[-1]}/run/{id}").json()


@pytest.fixture(scope="module")
def readers() -> Iterator[Readers]:
    readers = Readers()
    yield readers
    readers.close()


@pytest.fixture(scope="module", params=["here", "redis", "file"])
def site(request: pytest.FixtureRequest, readers: Readers) -> Iterator[Site]:
    """One server in this process; or two workers, over Redis or over files."""
    with ExitStack() as stack:
        if request.param == "here":
            server = stack.enter_context(serve(Model(Hub(reconnect=(0.05, 0.1))).app))
            site = Site(readers, [server.url])
        else:
            store = stack.enter_context(RedisServer() if request.param == "redis" else FileServer())
            commands = [uvicorn("clients_app:app", "--no-access-log") for _ in range(2)]
            for command in commands:
                command.env["SSE_HUB_URL"] = store.url
            workers = [stack.enter_context(run(command)) for command in commands]
            site = Site(readers, [f"http://127.0.0.1:{worker.port}" for worker in workers], workers)
        stack.callback(site.http.close)
        yield site


@pytest.mark.parametrize("client", CLIENTS)
def test_a_reload_in_mid_run_and_three_at_once(client: str, site: Site) -> None:
    id, (first, leave) = site.begin(client)
    leave()
    readers = [site.come(client, id, worker) for worker in (0, -1, -1)]
    site.release(id)
    for reader in readers:
        assert (reader.ended(), reader.text) == ("done", WHOLE)
    whole = site.agree(client, id, *readers)
    assert whole.startswith(*first.received())


# fetch-event-source takes an id before its event is whole, and would not come back for an event in pieces.
@pytest.mark.parametrize(("client", "piece"), [("fetchEventSource", b""), ("httpx-sse", b'data: "tim')])
def test_a_reader_whose_line_breaks_goes_on_by_its_id_at_another_worker(
    client: str, piece: bytes, site: Site
) -> None:
    id, (first, _) = site.begin(client)
    with closing(Proxy(site.port(0))) as line:
        reader, _ = site.readers.open(client, line.url, id, again=True, resumes=True)
        reader.wait(SAID)
        if piece:
            line.stop_at = piece
            site.release(id)
            assert line.stopped.wait(PATIENCE)
        line.target = site.port(-1)
        line.cut()
        site.release(id)
        reader.wait(SAID)
        line.mend()
        assert (reader.ended(), reader.text) == ("done", WHOLE)
    assert first.ended() == "done"
    whole, (part, rest) = site.agree(client, id, first), reader.received()
    ids = re.findall("^id: (.*)$", whole.decode(), re.MULTILINE)
    assert site.came_with(id)[-1] == ids[2]
    part, _, broken = part.rpartition(b"\n\n")
    assert broken.endswith(piece)
    assert part + b"\n\n" + rest == whole


@pytest.mark.parametrize("client", CLIENTS)
def test_a_stop_ends_every_reader(client: str, site: Site) -> None:
    id, (first, _) = site.begin(client)
    second = site.come(client, id)
    assert site.stop(id) is True
    for reader in (first, second):
        ended = reader.ended()
        assert ended == "stopped" or (client.startswith("openai") and "the run was stopped" in ended), ended
        assert reader.text == SAID
    site.agree(client, id, first, second)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_source_that_fails_fails_every_reader(
    client: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("sse_hub"), "propagate", False)
    id, (first, _) = site.begin(client)
    second = site.come(client, id)
    site.release(id, "fail")
    for reader in (first, second):
        ended = reader.ended()
        assert ended.startswith("error: "), ended
        assert "sorry: RuntimeError" in ended, ended
        assert reader.text == SAID
    whole = site.agree(client, id, first, second)
    assert b"[DONE]" not in whole
    assert b"1234" not in whole


def test_every_event_of_a_run_carries_its_trace(site: Site) -> None:
    id = f"traced-{next(numbers)}"
    site.release(id)
    site.http.post(f"{site.urls[0]}/api/chat", json={"id": id})
    lines = site.agree("ai", id).split(b"\n")
    traced = [line for line in lines if line.startswith(b"traceparent: ")]
    assert (len(traced), len({*traced})) == ((len(WORDS) + 4, 1) if site.processes else (0, 0))
    assert lines[-3:] == [b"data: [DONE]", b"", b""]


def test_resuming_a_run_that_does_not_exist_finds_nothing(site: Site) -> None:
    for client in ("ai", "agui", "fetchEventSource", "httpx-sse"):
        reader, _ = site.readers.open(client, site.urls[-1], "nowhere", again=True)
        assert reader.ended() == "nothing"


def test_the_death_of_the_owner_ends_every_reader(site: Site) -> None:
    """The last test: it ends the first worker."""
    if not site.processes:
        return  # there is no other worker that could tell
    runs = {client: site.begin(client) for client in CLIENTS}
    elsewhere = {client: site.come(client, id) for client, (id, _) in runs.items()}
    site.processes[0].kill()
    for _, (reader, _) in runs.values():
        assert reader.ended() not in ("done", "stopped"), "its connection broke"
        assert reader.text == SAID
    took = until(lambda: all(reader.end is not None for reader in elsewhere.values()))
    assert took < promised(10)
    # Reloads find the run as it was left, and end at once.
    for client, (id, (first, _)) in runs.items():
        again, _ = site.readers.open(client, site.urls[-1], id, again=True)
        for reader in (elsewhere[client], again):
            ended = reader.ended()
            assert ended == "lost" or "the run was lost" in ended, (client, ended)
            assert reader.text == SAID
        whole = site.transcript(client, id, site.urls[-1])
        assert elsewhere[client].received() == again.received() == [whole]
        assert whole.startswith(*first.received())
        assert b"[DONE]" not in whole
