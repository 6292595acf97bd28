"""Streams that were handed off, in a server of their own: without descriptors, forked, at the exit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from handoff_serving import body_of
from loops import LOOPS
from servers import Client, Command, program, run, uvicorn
from waiting import PATIENCE
from wire import Stream, reset


def app(*options: str) -> Command:
    # No client finds its connection closed that was idle between two questions.
    return uvicorn("reactor_app:app", "--timeout-keep-alive", str(int(PATIENCE)), *options)


def ask(client: Client, path: str) -> str:
    """One more request on a connection that stays open; the text of its answer ends with a full stop."""
    client.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return answer(client)


def answer(client: Client) -> str:
    client.read_until(b"\r\n\r\n")
    return client.read_until(b".").decode()


@pytest.mark.skipif(sys.platform != "linux", reason="limits descriptors")
def test_without_descriptors_only_newcomers_suffer() -> None:
    with run(app()) as server, ExitStack() as stack:
        streams = [stack.enter_context(Stream(server.port, "/events")) for _ in range(5)]
        for stream in streams:
            stream.opened()
        control = stack.enter_context(Client(server.port, "/publish?data=0"))
        assert answer(control) == f"published to {'+'.join(['reactor'] * 5)}."
        with Stream(server.port, "/exhausted") as newcomer:
            newcomer.opened()
            paths = "+".join(["loop"] + ["reactor"] * 5)
            assert ask(control, "/publish?data=1") == f"published to {paths}."
            assert newcomer.take(1) == ["1"], "it has no descriptor to hand over, and streams all the same"
            assert ask(control, "/stayed") == "stayed {'descriptors': 1}."
        stack.enter_context(Client(server.port, "/events"))  # cannot even be accepted
        for n in range(2, 5):
            ask(control, f"/publish?data={n}")
        for stream in streams:
            assert stream.take(5) == [str(n) for n in range(5)]
        ask(control, "/restored")
        streams.append(stack.enter_context(Stream(server.port, "/events")))
        streams[-1].opened()
        server.terminate()
        for stream in streams:
            assert stream.rest() == []
            assert stream.ended
        assert server.wait() in (0, -signal.SIGTERM)


@pytest.mark.skipif(sys.platform != "linux", reason="limits descriptors")
def test_without_descriptors_for_a_reactor_the_first_stream_stays_with_its_server() -> None:
    with run(app()) as server, ExitStack() as stack:
        control = stack.enter_context(Client(server.port, "/restored"))
        answer(control)
        # One for the loop's reader, one to hand over, none for a thread with its own.
        with Stream(server.port, "/exhausted?left=2") as stream:
            stream.opened()
            assert ask(control, "/publish?data=1") == "published to loop."
            assert stream.take(1) == ["1"]
            ask(control, "/restored")
            with Stream(server.port, "/events") as later:
                later.opened()
                assert ask(control, "/publish?data=2") == "published to loop+reactor."
                assert (stream.take(1), later.take(1)) == (["2"], ["2"])


@pytest.mark.skipif(sys.platform != "linux", reason="limits descriptors")
@pytest.mark.parametrize("left", range(4))
def test_the_first_stream_of_a_process_with_few_descriptors_streams_or_comes_back(left: int) -> None:
    with run(app()) as server, Client(server.port, f"/exhausted?left={left}") as client:
        head = client.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        if left == 0:  # not even one for the loop to be woken by
            assert body_of(head + client.read_until(b"0\r\n\r\n")) == b"retry: 30000\n\n"
        else:
            client.read_until(b"stream-open")
        server.terminate()
        client.read_to_end()
        assert server.wait() in (0, -signal.SIGTERM)
        assert "Traceback" not in server.output
        reason = "a stream could not be opened, and its client comes back in 30 seconds"
        assert (reason in server.output) is (left == 0)


KINDS = ["waits", "runs", "def", "waits, let go", "runs, let go", "def, let go"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits descriptors")
def test_the_first_generators_of_a_process_without_descriptors_stream_and_are_closed() -> None:
    with run(app()) as server, ExitStack() as stack:
        clients = [stack.enter_context(Client(server.port, "/restored")) for _ in KINDS]
        status = stack.enter_context(Client(server.port, "/restored"))
        for client in (*clients, status):
            answer(client)
        assert ask(status, "/used-up") == "used up."
        status.sock.sendall(b"GET /plain-events HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 503 ")
        for client, kind in zip(clients, KINDS, strict=True):
            path = f"/generator?kind={kind.replace(' ', '%20')}"
            client.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            client.read_until(b"data: tick\r\n\r\n")
            reset(client.sock)
            server.wait_for(f"closed: {kind}\\.")
        server.terminate()
        assert server.wait() in (0, -signal.SIGTERM)
        assert "Traceback" not in server.output


FORKS = """
import os, signal, socket
from sse_hub import _core

client, server = socket.socketpair()
taken = [_core._duplicate(server.fileno()) for _ in range(2)]
server.close()
client.settimeout(10)
child = os.fork()
if child == 0:
    signal.pause()
_core._close(taken[0])
assert _core._release(taken[1])
os.close(taken[1])
assert client.recv(1) == b"", "the child keeps no copy"
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)

# A number that was given back may be another's.
reused = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
assert set(taken) < set(reused)
child = os.fork()
if child == 0:
    for number in reused:
        os.fstat(number)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0, "closed in the child, although nobody's but the program's"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_while_a_connection_is_on_its_way_keeps_no_copy() -> None:
    command = program(FORKS)
    done = subprocess.run(command.args, env={**os.environ, **command.env}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("loop", LOOPS)
def test_a_forked_child_keeps_no_connection_open(loop: str) -> None:
    with run(app("--loop", loop)) as server, ExitStack() as stack:
        streams = [stack.enter_context(Stream(server.port, "/events")) for _ in range(5)]
        for stream in streams:
            stream.opened()
        control = stack.enter_context(Client(server.port, "/publish?data=0"))
        answer(control)
        child = int(ask(control, "/fork").removeprefix("child ").removesuffix("."))
        # The parent's streams go on.
        ask(control, "/publish?data=1")
        for stream in streams:
            assert stream.take(2) == ["0", "1"]
        leaves = streams.pop()
        leaves.close()
        deadline = time.monotonic() + PATIENCE
        while ask(control, "/publish?data=2") != f"published to {'+'.join(['reactor'] * 4)}.":
            assert time.monotonic() < deadline
        # Whatever ends the parent, its clients know at once.
        os.kill(server.process.pid, signal.SIGKILL)
        for stream in streams:
            stream.rest()
            assert stream.reset
        os.kill(child, 0)


EXITS = """
import sys, threading, time
import uvicorn
from reactor_app import app, hub

server = uvicorn.Server(uvicorn.Config(app, port=0, loop="asyncio"))
server.install_signal_handlers = lambda: None
threading.Thread(target=server.run, daemon=True).start()

def publish():
    try:
        while True:
            hub.publish("t", "tick")
            time.sleep(0.001)
    except NameError:
        pass  # The main thread deleted it.

while hub.stats()["handed_off"] < 5:
    time.sleep(0.01)
threading.Thread(target=publish, daemon=True).start()
while hub.stats()["delivered"] < 100:
    time.sleep(0.01)
{end}
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [("", 0), ("sys.exit(3)", 3), ("del hub, app; sys.exit()", 0), ("import os; os._exit(4)", 4)],
)
def test_the_interpreter_exits_with_streams_open(end: str, code: int) -> None:
    command = program(EXITS.replace("{end}", end))
    with run(command) as server, ExitStack() as stack:
        streams = [stack.enter_context(Stream(server.port, "/events")) for _ in range(5)]
        for stream in streams:
            assert stream.take(2) == ["tick", "tick"]
        for stream in streams:
            stream.rest()
        assert server.wait() == code
        assert not re.search("Traceback|Error|panicked|Fatal", server.output), server.output
