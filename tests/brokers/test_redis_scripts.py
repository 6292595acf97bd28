"""Scripts whose Redis is away, stands still or is slow, and what they leave in it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack, suppress

import pytest
from programs import run_script
from redis_server import Proxy, RedisServer
from servers import HOST
from sse_hub import Hub, RedisBroker
from waiting import PATIENCE, promised, until


def published(redis: RedisServer) -> int:
    """How many events are in the stream, each of them once."""
    data = redis.data()
    assert len({*data}) == len(data)
    return len(data)


def test_a_program_whose_redis_is_away_ends_and_says_so() -> None:
    began = time.monotonic()
    source = """
        from sse_hub import Hub, RedisBroker
        hub = Hub(RedisBroker(URL, timeout=0.5))
        for n in range(10):
            hub.publish("t", n)
    """
    run_script(source, f"redis://{HOST}:1", errors=["10 publications failed"])
    assert time.monotonic() - began < promised(5)


def test_a_program_whose_redis_stands_still_ends(redis: RedisServer) -> None:
    source = """
        from sse_hub import BrokerError, Hub, OutcomeUnknown, RedisBroker
        hub = Hub(RedisBroker(URL, timeout=1.0, connect_timeout=1.0))
        while True:  # on a busy machine, connecting takes longer than a publication may
            try:
                print(hub.publish("t", 0).result(), flush=True)
                break
            except BrokerError as error:
                assert "nothing was published" in str(error)
        input()
        try:
            hub.publish("t", 1).result()
        except OutcomeUnknown:
            print("unknown", flush=True)
    """
    program = f"URL = {redis.url!r}\n" + textwrap.dedent(source)
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as script:
        assert script.stdout is not None
        assert script.stdout.readline()
        redis.pause()
        out, _ = script.communicate("go on\n", timeout=PATIENCE)
    redis.resume()
    assert (script.returncode, out) == (0, "unknown\n")


def test_a_program_whose_redis_is_slow_ends_when_everything_was_sent(redis: RedisServer) -> None:
    """Longer than it would wait for a Redis that does nothing: batches of 256, of 0.3 seconds each."""
    with Proxy(redis.port) as proxy:
        proxy.delay = 0.15
        source = """
            from sse_hub import Hub, RedisBroker
            hub = Hub(RedisBroker(URL, timeout=5, connect_timeout=5), history=10_000)
            for n in range(8000):
                hub.publish("t", n)
        """
        run_script(source, proxy.url)
    assert published(redis) == 8000


def test_what_waits_for_a_redis_that_comes_soon_is_sent_at_the_end(redis: RedisServer) -> None:
    """Closing waits for what was published, as long as a publication may take."""
    with Proxy(redis.port) as proxy:
        proxy.cut()
        source = """
            from sse_hub import Hub
            with Hub(URL) as hub:
                for n in range(COUNT):
                    hub.publish("t", n)
                print("published", flush=True)
        """
        program = f"URL = {proxy.url!r}\nCOUNT = 100\n" + textwrap.dedent(source)
        with subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program], stdout=subprocess.PIPE, text=True
        ) as script:
            assert script.stdout is not None
            assert script.stdout.readline() == "published\n"
            proxy.restore()
            assert script.wait(PATIENCE) == 0
    assert published(redis) == 100


def test_a_forked_child_keeps_no_connection_of_its_parent(redis: RedisServer) -> None:
    source = """
        import os, socket, sys
        from sse_hub import Hub
        hub = Hub(URL)
        hub.publish("t", 0).result()
        port = int(URL.rsplit(":", 1)[1])
        asked, answered = os.pipe()
        if os.fork() == 0:
            found = 0
            for name in os.listdir("/proc/self/fd"):
                try:
                    link = os.readlink(f"/proc/self/fd/{name}")
                    if link.startswith("socket:"):
                        with socket.socket(fileno=os.dup(int(name))) as copy:
                            found += copy.getpeername()[1] == port
                except OSError:
                    pass
            os.write(answered, str(found).encode())
            os._exit(0)
        print(os.read(asked, 16).decode())
        hub.publish("t", 1).result()
        hub.close()
    """
    assert run_script(source, redis.url) == "0\n"
    assert published(redis) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_forked_child_keeps_no_connection_that_is_being_made() -> None:
    def sockets() -> set[str]:
        links = set()
        for name in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):
                links.add(os.readlink(f"/proc/self/fd/{name}"))
        return {link for link in links if link.startswith("socket:")}

    with ExitStack() as stack:
        # Nobody accepts, and two wait already: those that come now are kept waiting.
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        before = sockets()
        url = f"redis://127.0.0.1:{server.getsockname()[1]}"
        hub = stack.enter_context(Hub(RedisBroker(url, timeout=0.2, connect_timeout=1)))
        hub.publish("t", 1)
        until(lambda: sockets() - before)
        asked, answered = os.pipe()
        if (child := os.fork()) == 0:
            os.write(answered, b"%d" % len(sockets() - before))
            os._exit(0)
        assert os.read(asked, 16) == b"0"
        os.waitpid(child, 0)
        os.close(asked)
        os.close(answered)


async def test_scripts_are_sent_once(redis: RedisServer) -> None:
    def calls(command: str) -> int:
        stats = redis.admin.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})
        return int(stats["calls"])

    async with Hub(redis.url) as hub:
        for n in range(10):
            await hub.publish("t", n)
            await hub.presence("t")
        assert calls("evalsha") >= 20
        assert calls("eval") <= 8, "one for each script, and for each new connection"
        redis.admin.script_flush()
        await hub.publish("t", 10)
    assert published(redis) == 11


def test_nothing_of_an_end_stays_in_redis(redis: RedisServer) -> None:
    with Hub(redis.url) as hub:
        for n in range(50):
            hub.end(f"t{n}", keep=0.2).result(PATIENCE)
        until(lambda: not redis.admin.keys("*:ended"))
