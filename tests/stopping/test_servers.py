"""A server with open streams stops: soon, quietly, with its lifespan, and without touching anything else.

Every server here is real and holds streams of each kind: clients that read, and clients that stopped
reading and whose socket takes no more. The servers run in parallel, since most of each run is waiting.
"""

from __future__ import annotations

import re
import sysconfig
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers import (
    Client,
    Command,
    ServerProcess,
    granian,
    gunicorn,
    hypercorn,
    program,
    run,
    staying,
    uvicorn,
)
from waiting import promised

APP = "stopping_app:app"
GRACE = 1.0
PLACES = [
    f"{middleware}{kind}" for middleware in ("", "/middleware") for kind in ("/raw", "/generated", "/hub")
]
READING = PLACES
STALLED = [f"{place}/flood" for place in PLACES]

IN_A_THREAD = """
import signal, threading
import uvicorn

server = uvicorn.Server(uvicorn.Config("stopping_app:app", port=0))
signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))
thread = threading.Thread(target=server.run)
thread.start()
thread.join()
print("the program goes on")
"""


def terminate(server: ServerProcess) -> None:
    server.terminate()


def interrupt(server: ServerProcess) -> None:
    server.interrupt()


def interrupt_twice(server: ServerProcess) -> None:
    server.interrupt()
    server.wait_for("Stopping worker")
    server.interrupt()


def use_up_requests(server: ServerProcess) -> None:
    for _ in range(3):
        with Client(server.port, "/plain") as client:
            client.read_until(b"ok")


@dataclass
class Outcome:
    """What a stop looked like from outside."""

    seconds: float
    processes: int
    code: int
    output: str
    ends: dict[str, bytes]


SCENARIOS: dict[str, tuple[Callable[[], Command], Callable[[ServerProcess], None]]] = {
    "uvicorn": (lambda: staying(uvicorn(APP, "--loop", "asyncio")), terminate),
    "uvicorn-ctrl-c": (lambda: staying(uvicorn(APP, "--loop", "asyncio")), interrupt),
    "uvicorn-uvloop": (lambda: staying(uvicorn(APP, "--loop", "uvloop")), terminate),
    "uvicorn-uvloop-ctrl-c": (lambda: staying(uvicorn(APP, "--loop", "uvloop")), interrupt),
    "uvicorn-h11": (lambda: staying(uvicorn(APP, "--http", "h11", "--loop", "asyncio")), terminate),
    "uvicorn-reload": (lambda: staying(uvicorn(APP, "--reload", "--reload-dir", "examples")), terminate),
    "uvicorn-reload-ctrl-c": (
        lambda: staying(uvicorn(APP, "--reload", "--reload-dir", "examples")),
        interrupt,
    ),
    "uvicorn-workers": (lambda: staying(uvicorn(APP, "--workers", "2", processes=2)), terminate),
    "uvicorn-workers-ctrl-c": (lambda: staying(uvicorn(APP, "--workers", "2", processes=2)), interrupt),
    "uvicorn-max-requests": (lambda: staying(uvicorn(APP, "--limit-max-requests", "3")), use_up_requests),
    "uvicorn-own-timeout": (lambda: staying(uvicorn(APP, "--timeout-graceful-shutdown", "1")), terminate),
    "uvicorn-in-a-thread": (lambda: staying(program(IN_A_THREAD)), terminate),
    "handed-off": (lambda: uvicorn(APP, "--loop", "asyncio"), terminate),
    "handed-off-ctrl-c": (lambda: uvicorn(APP, "--loop", "asyncio"), interrupt),
    "handed-off-uvloop": (lambda: uvicorn(APP, "--loop", "uvloop"), terminate),
    "handed-off-reload": (
        lambda: uvicorn(APP, "--reload", "--reload-dir", "examples"),
        terminate,
    ),
    "handed-off-workers": (lambda: uvicorn(APP, "--workers", "2", processes=2), terminate),
    "handed-off-workers-ctrl-c": (
        lambda: uvicorn(APP, "--workers", "2", processes=2),
        interrupt,
    ),
    "handed-off-max-requests": (
        lambda: uvicorn(APP, "--limit-max-requests", "3"),
        use_up_requests,
    ),
    "handed-off-own-timeout": (
        lambda: uvicorn(APP, "--timeout-graceful-shutdown", "1"),
        terminate,
    ),
    "handed-off-in-a-thread": (lambda: program(IN_A_THREAD), terminate),
    "handed-off-gunicorn": (lambda: gunicorn(APP, processes=1), terminate),
    "handed-off-gunicorn-preload": (
        lambda: gunicorn(APP, "--preload", processes=2),
        terminate,
    ),
    "gunicorn": (lambda: staying(gunicorn(APP, processes=1)), terminate),
    "gunicorn-preload": (lambda: staying(gunicorn(APP, "--preload", processes=2)), terminate),
    "hypercorn": (lambda: hypercorn(APP), terminate),
    "hypercorn-uvloop-ctrl-c": (lambda: hypercorn(APP, "-k", "uvloop"), interrupt),
    "granian": (lambda: granian(APP, "--loop", "asyncio"), terminate),
    "granian-ctrl-c-twice": (lambda: granian(APP, "--loop", "asyncio"), interrupt_twice),
    "granian-uvloop-ctrl-c": (lambda: granian(APP, "--loop", "uvloop"), interrupt),
    "granian-uvloop-ctrl-c-twice": (lambda: granian(APP, "--loop", "uvloop"), interrupt_twice),
}


def play(command: Command, stop: Callable[[ServerProcess], None]) -> Outcome:
    """Start a server, open streams, stop it."""
    with run(command) as server, ExitStack() as stack:
        reading = {path: stack.enter_context(Client(server.port, path)) for path in READING}
        stalled = [stack.enter_context(Client(server.port, path, receive_buffer=4096)) for path in STALLED]
        for client in reading.values():
            client.read_until(b"data: tick\n\n")
        for client in stalled:
            client.wait_stalled()
        began = time.monotonic()
        stop(server)
        ends = {path: client.read_to_end() for path, client in reading.items()}
        code = server.wait()
        return Outcome(time.monotonic() - began, command.processes, code, server.output, ends)


# What granian's own runtime prints when it aborts a worker: one of its threads drops a Python object
# while the worker ends. That happens in two or three of a hundred stops with clients that do not read.
GRANIAN_ABORTS = "Cannot drop pointer into Python heap"


def play_past_an_abort(command: Command, stop: Callable[[ServerProcess], None]) -> Outcome:
    """The same, once more when granian itself has aborted its worker."""
    outcome = play(command, stop)
    return play(command, stop) if GRANIAN_ABORTS in outcome.output else outcome


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, Future[Outcome]]]:
    """All scenarios, a few at a time, in the order in which the tests ask for them."""
    with ThreadPoolExecutor(4) as pool:
        yield {
            name: pool.submit(play_past_an_abort, command(), stop)
            for name, (command, stop) in SCENARIOS.items()
        }


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_server_with_open_streams_stops(name: str, outcomes: dict[str, Future[Outcome]]) -> None:
    outcome = outcomes[name].result()
    assert outcome.seconds < promised(2.0 + GRACE), outcome.output
    for path, end in outcome.ends.items():
        assert end.endswith(b"\r\n0\r\n\r\n"), f"{path} was cut: {end!r}"
    assert outcome.output.count("lifespan ended") == outcome.processes
    assert not re.search(r"Traceback|ERROR|Exception|Warning|was never", outcome.output), outcome.output
    assert outcome.code in (0, -15)
    paths = set(re.findall(r"connected through the (loop|reactor)", outcome.output))
    assert paths == {"reactor" if name.startswith("handed-off") else "loop"}


OWN_HANDLER = """
import signal
from contextlib import asynccontextmanager
from stopping_app import app, lifespan

@asynccontextmanager
async def with_a_handler(app):
    async with lifespan(app):
        previous = signal.getsignal(signal.SIGTERM)
        try:
            signal.signal(signal.SIGTERM, lambda *args: (print("own handler", flush=True), previous(*args)))
        except ValueError as error:
            print(error, flush=True)
        yield

app.router.lifespan_context = with_a_handler
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_signal_handler_of_the_application_is_called_under_granian(loop: str, tmp_path: Path) -> None:
    (tmp_path / "own_handler_app.py").write_text(OWN_HANDLER)
    command = granian("own_handler_app:app", "--loop", loop, "--working-dir", str(tmp_path))
    with run(command) as server, Client(server.port, "/hub") as client:
        client.read_until(b"data: tick\n\n")
        server.terminate()
        assert client.read_to_end().endswith(b"\r\n0\r\n\r\n")
        assert server.wait() == 0
        if sysconfig.get_config_var("Py_GIL_DISABLED"):  # granian's workers are threads
            assert "signal only works in main thread" in server.output
        else:
            assert server.output.count("own handler") == 1


LATE = """
from sse_hub._servers import granian
from stopping_app import app

search = granian._owner_of_this_thread

def owner_that_was_ended():
    owner = search()
    return owner if owner is not None and owner.interrupt_by_parent else None

granian._owner_of_this_thread = owner_that_was_ended
"""


def test_a_worker_thread_of_granian_may_end_before_it_is_known(tmp_path: Path) -> None:
    (tmp_path / "late_app.py").write_text(LATE)
    command = granian("late_app:app", "--working-dir", str(tmp_path))
    with run(command) as server, Client(server.port, "/hub") as client:
        client.read_until(b"data: tick\n\n")
        server.terminate()
        assert client.read_to_end().endswith(b"\r\n0\r\n\r\n")
        assert server.wait() == 0


def test_a_failure_says_what_the_server_printed_and_where_its_threads_are() -> None:
    with pytest.raises(ValueError, match="wrong") as caught, run(uvicorn(APP)):
        raise ValueError("wrong")
    (note,) = caught.value.__notes__
    assert "lifespan started" in note
    assert re.search(r"\(most recent call first\):\n(.*\n)*.*uvicorn/server.py", note), note
