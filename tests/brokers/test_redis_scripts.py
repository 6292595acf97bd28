"""Publishing from processes that serve no clients: scripts, tasks, programs that fork; and how they end."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence

import pytest
from redis_server import Proxy, RedisServer
from servers import HOST
from sse_hub import Hub
from waiting import PATIENCE, promised, until

COUNT = 2000


def run_program(source: str, url: str, *, code: int = 0, errors: Sequence[str] = ()) -> str:
    """Run it with this ``URL``; returns its output. It must end on its own, and print these ``errors``."""
    program = f"URL = {url!r}\nCOUNT = {COUNT}\n" + textwrap.dedent(source)
    # Python warns of every fork of a process with threads, which a broker has.
    strict = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    command = [sys.executable, "-X", "faulthandler", *strict, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == code, ended.stderr
    for words in errors:
        assert words in ended.stderr, ended.stderr
    if not errors:
        assert ended.stderr == ""
    return ended.stdout


def published(redis: RedisServer) -> int:
    """How many events are in the stream, each of them once."""
    entries = [str(fields) for _, fields in redis.admin.xrange("{sse-hub:default}:events")]
    assert len({*entries}) == len(entries)
    return len(entries)


@pytest.mark.parametrize(
    "end",
    {
        "nothing": """
            for n in range(COUNT):
                hub.publish("t", n)
        """,
        "with": """
            with hub:
                for n in range(COUNT):
                    hub.publish("t", n)
            import redis
            assert redis.Redis.from_url(URL).xlen("{sse-hub:default}:events") == COUNT
        """,
        "close": """
            publications = [hub.publish("t", n) for n in range(COUNT)]
            hub.close()
            assert all(one.done() and one.id for one in publications)
        """,
        "aclose": """
            import asyncio
            async def main():
                publications = [hub.publish("t", n) for n in range(COUNT)]
                await hub.aclose()
                assert all(one.done() and one.id for one in publications)
            asyncio.run(main())
        """,
        "close on a loop": """
            import asyncio
            async def main():
                for n in range(COUNT):
                    hub.publish("t", n)
                hub.close()
            asyncio.run(main())
        """,
        "asyncio.run": """
            import asyncio
            async def main():
                for n in range(COUNT):
                    hub.publish("t", n)
            asyncio.run(main())
        """,
        "dropped": """
            for n in range(COUNT):
                hub.publish("t", n)
            del hub
            import gc; gc.collect()
        """,
        "threads": """
            import threading
            def publish(part):
                for n in range(COUNT // 4):
                    hub.publish("t", [part, n])
            for part in range(4):
                threading.Thread(target=publish, args=(part,)).start()
        """,
        "awaited, then more": """
            import asyncio
            async def main():
                await hub.publish("t", "first")
                for n in range(COUNT - 1):
                    hub.publish("t", n)
            asyncio.run(main())
        """,
    }.items(),
    ids=lambda end: end[0].replace(" ", "-"),
)
def test_a_program_that_ends_has_sent_everything(redis: RedisServer, end: tuple[str, str]) -> None:
    head = "from sse_hub import Hub\nhub = Hub(URL, history=10_000)\n"
    run_program(head + textwrap.dedent(end[1]), redis.url)
    assert published(redis) == COUNT


def test_a_program_that_fails_has_sent_everything(redis: RedisServer) -> None:
    source = """
        from sse_hub import Hub
        hub = Hub(URL, history=10_000)
        for n in range(COUNT):
            hub.publish("t", n)
        raise RuntimeError("of its own")
    """
    run_program(source, redis.url, code=1, errors=["of its own"])
    assert published(redis) == COUNT


def test_a_program_whose_redis_is_away_ends_and_says_so() -> None:
    began = time.monotonic()
    source = """
        from sse_hub import Hub, RedisBroker
        hub = Hub(RedisBroker(URL, timeout=0.5))
        for n in range(10):
            hub.publish("t", n)
    """
    run_program(source, f"redis://{HOST}:1", errors=["10 publications failed"])
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
    """Longer than it would wait for a Redis that does nothing."""
    with Proxy(redis.port) as proxy:
        proxy.delay = 0.15
        source = """
            import time
            from sse_hub import BrokerError, Hub, RedisBroker
            hub = Hub(RedisBroker(URL, timeout=1.5, connect_timeout=1.5), history=10_000)
            while True:  # on a busy machine, connecting takes longer than a publication may
                try:
                    hub.publish("t", 0).result()
                    break
                except BrokerError as error:
                    assert "nothing was published" in str(error)
            for n in range(8000):
                hub.publish("t", n)
        """
        run_program(source, proxy.url)
    assert published(redis) == 8001


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


FORKS = """
    import os, sys
    from sse_hub import Hub
    hub = Hub(URL, history=10_000)

    def children(work, count=5):
        for n in range(count):
            if os.fork() == 0:
                code = 1
                try:
                    work(n)
                    code = 0
                finally:
                    END
        for _ in range(count):
            assert os.wait()[1] == 0
"""


@pytest.mark.parametrize(
    ("end", "sent"), [("hub.close(); os._exit(code)", 5), ("sys.exit(code)", 5)], ids=["close", "exit"]
)
def test_a_forked_child_publishes_by_itself_and_nothing_is_sent_twice(
    redis: RedisServer, end: str, sent: int
) -> None:
    source = textwrap.dedent(FORKS).replace("END", end) + textwrap.dedent("""
        first = hub.publish("t", "before").result()
        # Some of these are still on their way when the children begin: they are the parent's alone.
        waiting = [hub.publish("t", n) for n in range(COUNT)]
        children(lambda n: [hub.publish("t", f"child {n}-{m}").result(10) for m in range(10)])
        hub.publish("t", "after").result()
        assert all(one.id for one in waiting)
    """)
    run_program(source, redis.url)
    assert published(redis) == COUNT + 2 + 10 * sent


def test_a_child_does_not_wait_for_what_its_parent_published(redis: RedisServer) -> None:
    source = textwrap.dedent(FORKS).replace("END", "os._exit(code)") + textwrap.dedent("""
        from sse_hub import BrokerError
        import asyncio
        hub.publish("t", "before").result()
        waiting = [hub.publish("t", n) for n in range(100)]

        def child(n):
            for one in waiting:
                try:
                    one.result(10)
                except BrokerError:
                    pass

        children(child)
        assert all(one.result(10) for one in waiting)
    """)
    run_program(source, redis.url)
    assert published(redis) == 101


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_child_of_multiprocessing_has_sent_everything_when_it_ends(redis: RedisServer, method: str) -> None:
    child = """
        from sse_hub import Hub
        hub = inherited or Hub(URL, history=10_000)
        for n in range(COUNT):
            hub.publish("t", n)
    """
    source = f"""
        import multiprocessing
        from sse_hub import Hub

        hub = None
        if {method!r} == "fork":
            hub = Hub(URL, history=10_000)
            hub.publish("t", "before").result()
        arguments = {textwrap.dedent(child)!r}, dict(inherited=hub, URL=URL, COUNT=COUNT)
        process = multiprocessing.get_context({method!r}).Process(target=exec, args=arguments)
        process.start()
        process.join()
        assert process.exitcode == 0
    """
    run_program(source, redis.url)
    assert published(redis) == COUNT + (method == "fork")


def test_pools_that_fork_publish(redis: RedisServer) -> None:
    source = """
        import multiprocessing
        from sse_hub import Hub
        hub = Hub(URL, history=10_000)

        def task(n):
            return hub.publish("t", n).result(10)

        hub.publish("t", "before").result()
        with multiprocessing.get_context("fork").Pool(4) as pool:
            ids = pool.map(task, range(200))
        assert len(set(ids)) == 200 and all(ids)
        hub.publish("t", "after").result()
    """
    run_program(source, redis.url)
    assert published(redis) == 202


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
    assert run_program(source, redis.url) == "0\n"
    assert published(redis) == 2


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
