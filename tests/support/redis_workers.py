"""uvicorn workers with hubs on Redis: one streams portably, one hands its connections off."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import httpx
from servers import Command, ServerProcess, run, staying, uvicorn
from waiting import PATIENCE
from wire import Stream

numbers = itertools.count(1)


def app_command(*options: str, processes: int = 1, **env: str) -> Command:
    """uvicorn that serves ``redis_app``."""
    command = uvicorn("redis_app:app", "--no-access-log", *options, processes=processes)
    command.env |= env
    return command


class Listener(Stream):
    """A client of a worker's stream, which collects the resets."""

    def __init__(self, hub: WorkerHub, path: str, **options: Any) -> None:
        self.hub = hub
        self.info = f"client {next(numbers)}"
        super().__init__(hub.worker.port, f"{path}&{urlencode({'info': self.info})}", **options)
        self.is_newcomer = not self.last_event_id and "replay=" not in path
        self.resets: list[dict[str, Any]] = []

    def event(self) -> Any:
        """The next published event. Resets before it go to ``resets``."""
        deadline = time.monotonic() + self.timeout
        while (event := self.next()).is_comment or event.event.startswith("stream-"):
            assert time.monotonic() < deadline, f"nothing but heartbeats, and {self.resets}"
            if event.event == "stream-reset":
                self.resets.append(event.json())
        return event

    def seen(self) -> dict[str, Any]:
        """What the worker knows of this client."""
        (found,) = (one for one in self.hub.subscribers() if one["info"] == self.info)
        return found

    @property
    def id(self) -> str:
        """The subscriber's id."""
        id: str = self.seen()["id"]
        return id

    def placed(self) -> str:
        """Read until the client has an id with which it can resume; an event before that fails the test.

        A stream that opened before its worker knew the log begins with a reset.
        """
        while not self.last_event_id:
            event = self.next()
            control = ("stream-open", "stream-cursor", "stream-reset")
            assert event.is_comment or event.event in control, event
        return self.last_event_id

    def until(self, data: Any) -> list[Any]:
        """The data of all published events up to the one with this data."""
        seen = [self.event().json()]
        while seen[-1] != data:
            seen.append(self.event().json())
        return seen

    def until_reset(self, *before: Any) -> dict[str, Any]:
        """Read up to a ``stream-reset``; returns its data.

        Events before it fail the test, unless they are those of ``before`` in that order.
        """
        may_come = [*before]
        deadline = time.monotonic() + self.timeout
        while (event := self.next()).event != "stream-reset":
            assert time.monotonic() < deadline, "nothing but heartbeats"
            if event.is_comment or event.event in ("stream-open", "stream-cursor"):
                continue
            assert may_come, event
            assert event.json() == may_come.pop(0), event
        said: dict[str, Any] = event.json()
        return said

    def heartbeat(self) -> None:
        """Wait for a heartbeat; an event before it fails the test."""
        assert (event := self.next()).is_comment or event.event == "stream-cursor", event


class WorkerHub:
    """One hub in one worker process."""

    def __init__(self, worker: Worker, name: str) -> None:
        self.worker = worker
        self.name = name

    @property
    def port(self) -> int:
        return self.worker.port

    def _call(self, method: str, path: str, *, json: Any = None, **query: Any) -> Any:
        query = {key: value for key, value in query.items() if value is not None}
        response = self.worker.http.request(method, f"/{self.name}{path}", params=query, json=json)
        assert response.status_code == 200, response.text
        return response.json()

    def listen(self, topics: str = "t", *, last_event_id: str = "", **query: Any) -> Listener:
        """Open a client's stream, without reading from it."""
        path = f"/{self.name}/events?{urlencode({'topics': topics, **query})}"
        return Listener(self, path, last_event_id=last_event_id)

    def subscribers(self) -> list[dict[str, Any]]:
        there: list[dict[str, Any]] = self._call("GET", "/subscribers")
        return there

    def publish(self, *data: Any, topics: str = "t") -> list[str]:
        """Publish each item; returns the ids."""
        outcomes = self.outcomes(*data, topics=topics)
        return [outcome["id"] for outcome in outcomes]

    def outcomes(self, *data: Any, topics: str = "t") -> list[dict[str, Any]]:
        """Publish each item; returns the outcomes."""
        outcomes: list[dict[str, Any]] = self._call("POST", "/publish", json=[*data], topics=topics)
        return outcomes

    def send(self, id: str, data: Any) -> dict[str, Any]:
        sent: dict[str, Any] = self._call("POST", "/send", json=data, id=id)
        return sent

    def disconnect(self, **whom: str) -> None:
        self._call("POST", "/disconnect", **whom)

    def presence(self, topic: str | None = None) -> dict[str, Any]:
        there: dict[str, Any] = self._call("GET", "/presence", topic=topic)
        return there

    def stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = self._call("GET", "/stats")
        return stats

    def state(self) -> str:
        """The state of the connection to Redis."""
        state: str = self.stats()["broker"]
        return state

    def close(self) -> None:
        self._call("DELETE", "")


def client_of(port: int) -> httpx.Client:
    """An HTTP client for a server.

    It leaves a connection long before the server does, which ends idle ones after 5 seconds: a request that
    is sent at that moment would be lost.
    """
    limits = httpx.Limits(keepalive_expiry=1.0)
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, limits=limits, trust_env=False)


class Worker:
    """A server process, and the hubs that a test created in it."""

    def __init__(self, process: ServerProcess) -> None:
        self.process = process
        self.port = process.port
        self.http = client_of(process.port)
        self.hubs: dict[str, WorkerHub] = {}

    def hub(self, url: str, name: str, *, broker: dict[str, Any] | None = None, **options: Any) -> WorkerHub:
        """Create a hub with this name; ``broker`` are the options of RedisBroker."""
        hub = WorkerHub(self, name)
        options = {"heartbeat": 0.2, **options}
        hub._call("PUT", "", json={"url": url, "broker": broker or {}, "hub": options})
        self.hubs[name] = hub
        return hub

    def close_hubs(self) -> None:
        while self.hubs:
            self.hubs.popitem()[1].close()


@contextmanager
def workers() -> Iterator[list[Worker]]:
    """Two servers; the first streams portably, the second hands its connections off."""
    with (
        run(staying(app_command("--http", "httptools", "--loop", "asyncio"))) as portable,
        run(app_command("--http", "httptools", "--loop", "uvloop")) as handing,
    ):
        pair = [Worker(portable), Worker(handing)]
        yield pair
        for worker in pair:
            worker.http.close()


class Pair:
    """The two workers for one test, and a hub name that no other test uses."""

    def __init__(self, pair: list[Worker]) -> None:
        self.workers = pair
        self.name = f"hub{next(numbers)}"

    def hubs(self, url: str, **options: Any) -> tuple[WorkerHub, WorkerHub]:
        """The same hub in both."""
        a, b = (worker.hub(url, self.name, **options) for worker in self.workers)
        return a, b

    def output(self) -> str:
        return "".join(worker.process.output for worker in self.workers)

    def close(self) -> None:
        for worker in self.workers:
            worker.close_hubs()


@contextmanager
def listening(*listeners: Listener) -> Iterator[tuple[Listener, ...]]:
    """Wait until these clients' streams are open; they close with the block.

    A newcomer then has its place in the log, from which on it gets what others publish. On a busy machine its
    stream may open before its worker knows the log.
    """
    try:
        for listener in listeners:
            listener.opened()
            if listener.is_newcomer:
                listener.placed()
        yield listeners
    finally:
        for listener in listeners:
            listener.close()


def presence_of(*clients: Listener) -> dict[str, Any]:
    """The presence of a topic with exactly these clients."""
    return {"count": len(clients), "ids": sorted(client.id for client in clients)}


def takes(listeners: Iterable[Listener], data: list[Any]) -> None:
    """Check that each client receives exactly this data next, in this order."""
    for listener in listeners:
        assert listener.take(len(data)) == data
