"""Publishing from processes that serve no clients: scripts, tasks, programs that fork; and how they end."""

from __future__ import annotations

import textwrap
import time

import pytest
from file_server import FileServer
from programs import COUNT, run_script
from stores import Store
from waiting import promised


def published(store: Store) -> int:
    """How many events are in the log, each of them once."""
    data = store.data()
    assert len({*data}) == len(data)
    return len(data)


@pytest.mark.parametrize(
    "end",
    {
        "nothing": """
            for n in range(COUNT):
                hub.publish("t", n)
        """,
        "with": """
            with hub:
                publications = [hub.publish("t", n) for n in range(COUNT)]
            assert all(one.done() and one.id for one in publications)
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
def test_a_program_that_ends_has_sent_everything(store: Store, end: tuple[str, str]) -> None:
    head = "from sse_hub import Hub\nhub = Hub(URL, history=10_000)\n"
    run_script(head + textwrap.dedent(end[1]), store.url)
    assert published(store) == COUNT


def test_a_program_that_fails_has_sent_everything(store: Store) -> None:
    source = """
        from sse_hub import Hub
        hub = Hub(URL, history=10_000)
        for n in range(COUNT):
            hub.publish("t", n)
        raise RuntimeError("of its own")
    """
    run_script(source, store.url, code=1, errors=["of its own"])
    assert published(store) == COUNT


def test_a_program_whose_log_another_process_has_locked_ends_and_says_so(files: FileServer) -> None:
    source = """
        from sse_hub import FileBroker, Hub
        hub = Hub(FileBroker(URL, timeout=0.5))
        for n in range(10):
            hub.publish("t", n)
    """
    run_script(source, files.url)
    files.pause()
    began = time.monotonic()
    run_script(source, files.url, errors=["10 publications failed", "has had the log locked for 500ms"])
    assert time.monotonic() - began < promised(5)
    assert published(files) == 10


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
    store: Store, end: str, sent: int
) -> None:
    source = textwrap.dedent(FORKS).replace("END", end) + textwrap.dedent("""
        first = hub.publish("t", "before").result()
        # Some of these are still on their way when the children begin: they are the parent's alone.
        waiting = [hub.publish("t", n) for n in range(COUNT)]
        children(lambda n: [hub.publish("t", f"child {n}-{m}").result(10) for m in range(10)])
        hub.publish("t", "after").result()
        assert all(one.id for one in waiting)
    """)
    run_script(source, store.url)
    assert published(store) == COUNT + 2 + 10 * sent


def test_a_child_does_not_wait_for_what_its_parent_published(store: Store) -> None:
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
    run_script(source, store.url)
    assert published(store) == 101


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_child_of_multiprocessing_has_sent_everything_when_it_ends(store: Store, method: str) -> None:
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
    run_script(source, store.url)
    assert published(store) == COUNT + (method == "fork")


def test_pools_that_fork_publish(store: Store) -> None:
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
    run_script(source, store.url)
    assert published(store) == 202
