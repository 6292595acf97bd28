"""What a hub does in forked processes, and what it warns of."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from programs import OPEN_STREAM, run_program
from servers import gunicorn, run
from wire import Stream

# A hub with an open stream, whose process forks twenty times while three threads use the hub.
FORKING = """
    import warnings
    # From 3.12 on Python warns of what this program is about.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

    async def one(n):
        async with connect(hub.endpoint("t", replay="all"), "/") as client:
            hub.publish("t", n)
            return [event.data for event in await client.take(hub.stats()["cursor"])]

    kept = []
    async def main():
        kept.append(hub.subscribe("t", info=object()))
        await anext(kept[0])
        hub.publish("t", "before the fork")
        return hub.stats()["epoch"]

    loop = asyncio.new_event_loop()
    epoch = loop.run_until_complete(main())
    stop = threading.Event()
    def noise():
        while not stop.is_set():
            hub.broadcast(0)
            hub.count()
    threads = [threading.Thread(target=noise) for _ in range(3)]
    for thread in threads:
        thread.start()
    children = []
    for _ in range(20):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                assert hub.count() == 0, hub.count()
                assert hub.stats()["epoch"] != epoch
                assert asyncio.run(one(1)) == ["1"]
                assert asyncio.run(one(2)) == ["1", "2"]
                assert kept[0].send("x").id is None
                assert kept[0].join("y") is False
                kept.clear()
                hub.close()
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stop.set()
    for thread in threads:
        thread.join()
    assert hub.stats()["epoch"] == epoch
    assert hub.count() == 1
    async def after():
        hub.publish("t", "after")
        wire = b""
        while b"after" not in wire:
            wire += await anext(kept[0])
        kept.clear()
    loop.run_until_complete(after())
    loop.close()
    print("done")
"""


def test_a_forked_child_publishes_and_subscribes_and_the_parent_goes_on() -> None:
    assert run_program(OPEN_STREAM + FORKING) == "done\n"


FORKED = """
    import asyncio, logging, os, sys
    from sse_hub import Hub

    logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
    hub = Hub(name="news")

    def in_child(act):
        sys.stdout.flush()
        if os.fork() == 0:
            try:
                act()
                sys.stdout.flush()
            finally:
                os._exit(0)
        os.wait()

    def publish():
        for _ in range(3):
            hub.publish("t", 1)

    async def serve():
        stream = hub.subscribe("t")
        publish()
        await anext(stream)
"""


@pytest.mark.parametrize(
    ("program", "warnings"),
    [
        ("in_child(publish)", ["published in a forked process without subscribers"]),
        (
            """
            async def main():
                stream = hub.subscribe("t")
                in_child(publish)
            asyncio.run(main())
            """,
            ["published in a forked process without subscribers"],
        ),
        (
            "publish(); in_child(lambda: asyncio.run(serve()))",
            ["3 events were published before this process was forked"],
        ),
        ("in_child(lambda: asyncio.run(serve()))", []),
        ("in_child(lambda: (asyncio.run(serve()), publish()))", []),
        ("publish()", []),
    ],
    ids=["child", "child-of-a-server", "at-import", "child-serves", "child-served", "no-fork"],
)
def test_a_publication_that_a_fork_keeps_from_its_subscribers_is_warned_of_once(
    program: str, warnings: list[str]
) -> None:
    lines = run_program(textwrap.dedent(FORKED) + textwrap.dedent(program)).splitlines()
    assert len(lines) == len(warnings), lines
    for line, warning in zip(lines, warnings, strict=True):
        assert line.startswith('WARNING hub "news": ')
        assert warning in line
        assert "broker" in line


PRELOADED = """
from contextlib import asynccontextmanager
from sse_hub import Hub
from starlette.applications import Starlette
from starlette.routing import Route

hub = Hub()
hub.publish("t", "at import")

@asynccontextmanager
async def lifespan(app):
    hub.publish("t", "in the lifespan")
    print("lifespan started")
    yield

app = Starlette(routes=[Route("/events", hub.endpoint("t", replay="all"))], lifespan=lifespan)
"""


def test_what_gunicorn_preloads_and_publishes_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "preloaded.py").write_text(PRELOADED)
    command = gunicorn("preloaded:app", "--preload", processes=1)
    command.env["PYTHONPATH"] += f":{tmp_path}"
    with run(command) as server:
        client = Stream(server.port, "/events")
        try:
            assert client.event().json() == "in the lifespan"
        finally:
            client.close()
    warning = "1 events were published before this process was forked, as at import under gunicorn --preload"
    assert server.output.count(warning) == 1
    assert "without subscribers" not in server.output
