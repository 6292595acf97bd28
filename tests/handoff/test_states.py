"""A single attempt: what can become of it, of the descriptor in it, and of the bytes it held back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from sse_hub import _core
from sse_hub._handoff.attempt import Attempt, State
from sse_hub._handoff.recorder import is_bare_stream
from sse_hub._servers.stay import Stay
from sse_hub._stopping.registry import RunningServer

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-y: z\r\n\r\n"
CHUNK = b"4\r\n: x\n\r\n"


class Transport:
    """Keeps what is written to it."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = ""

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += data

    def is_closing(self) -> bool:
        return bool(self.closed)

    def close(self) -> None:
        self.closed = "closed"

    def abort(self) -> None:
        self.closed = "aborted"

    def get_extra_info(self, name: str) -> str:
        return f"the {name}"


class Connection:
    """A connection that can always leave, unless ``stay`` says otherwise, with this descriptor."""

    def __init__(self, descriptor: int = -1) -> None:
        self.server = RunningServer(asyncio.get_running_loop())
        self.transport: Any = Transport()
        self.stay: Stay | None = None
        self.descriptor: int | tuple[Stay, bytes] = descriptor
        self.first = b""

    def reason_to_stay(self) -> Stay | None:
        return self.stay

    def take(self, first: bytes) -> int | tuple[Stay, bytes]:
        self.first = first
        return self.descriptor

    def discard(self, taken: int) -> None:
        _core._close(taken)


class Descriptor:
    """A descriptor to give away: the end of a pipe, so that the other end knows whether it is open."""

    def __init__(self) -> None:
        end, self._other = os.pipe()
        self.number = _core._duplicate(end)
        os.close(end)

    def is_closed(self) -> bool:
        try:
            os.write(self._other, b"x")
        except BrokenPipeError:
            return True
        return False

    def close(self) -> None:
        if not self.is_closed():
            _core._release(self.number)
            os.close(self.number)
        os.close(self._other)


@pytest.fixture
def descriptor() -> Iterator[Descriptor]:
    with closing(Descriptor()) as descriptor:
        yield descriptor


def begin(connection: Connection, timeout: float = 60.0) -> Attempt[Any]:
    attempt = Attempt(connection)
    attempt.begin(b": x\n", timeout)
    return attempt


async def test_the_announced_bytes_take_it_and_the_descriptor_is_given_once(descriptor: Descriptor) -> None:
    connection = Connection(descriptor.number)
    original = connection.transport
    attempt = begin(connection)
    recorder = connection.transport
    assert recorder.get_extra_info("socket") == "the socket"
    recorder.write(HEAD)
    recorder.write(b"")
    assert (attempt.state, original.written) == (State.PENDING, b"")
    recorder.write(CHUNK)
    assert (attempt.state, attempt.stay) == (State.TAKEN, None)
    assert (connection.first, original.written) == (HEAD + CHUNK, b""), "in one piece, past the transport"
    assert connection.transport is original
    assert await attempt.decision() == descriptor.number
    assert await attempt.decision() is None
    attempt.end()
    assert not descriptor.is_closed()
    assert attempt.server is connection.server


async def test_it_is_waited_for(descriptor: Descriptor) -> None:
    connection = Connection(descriptor.number)
    attempt = begin(connection)
    asyncio.get_running_loop().call_soon(connection.transport.write, HEAD + CHUNK)
    assert await attempt.decision() == descriptor.number


OTHER = {
    "another body": [HEAD, b"5\r\n: xx\n\r\n"],
    "more than the chunk": [HEAD, CHUNK + b"0"],
    "the end too": [HEAD, CHUNK + b"0\r\n\r\n"],
    "another status": [HEAD.replace(b"200 OK", b"201 Created")],
    "an interim response": [b"HTTP/1.1 103 Early Hints\r\n\r\n", HEAD],
    "a length": [HEAD.replace(b"x-y: z", b"Content-Length: 4"), CHUNK],
    "a coding of the content": [HEAD.replace(b"x-y: z", b"Content-Encoding: gzip"), CHUNK],
    "two transfer codings": [HEAD.replace(b"x-y: z", b"Transfer-Encoding: gzip"), CHUNK],
    "no transfer coding": [HEAD.replace(b"transfer-encoding: chunked\r\n", b""), b": x\n"],
    "no HTTP": [b"\x16\x03\x01"],
}


@pytest.mark.parametrize("name", OTHER)
async def test_other_bytes_go_out_as_they_are(name: str) -> None:
    connection = Connection()
    original = connection.transport
    attempt = begin(connection)
    sent = b""
    for piece in OTHER[name]:
        connection.transport.write(piece)
        sent += piece
    assert (attempt.state, attempt.stay) == (State.KEPT, Stay.MIDDLEWARE)
    assert connection.transport is original
    assert original.written == sent
    assert await attempt.decision() is None


async def test_a_head_may_come_in_pieces(descriptor: Descriptor) -> None:
    connection = Connection(descriptor.number)
    attempt = begin(connection)
    for byte in HEAD + CHUNK:
        assert attempt.state is State.PENDING
        connection.transport.writelines([bytes([byte])])
    assert await attempt.decision() == descriptor.number
    assert is_bare_stream(b"HTTP/1.1 200 " + b"x" * 65536, CHUNK) is False, "it is not held back for ever"


@pytest.mark.parametrize("when", ["when it is written", "when it is asked for", "while it is taken"])
async def test_a_reason_to_stay_keeps_it(when: str) -> None:
    connection = Connection()
    original = connection.transport
    attempt = begin(connection)
    left = HEAD + CHUNK
    if when == "while it is taken":
        left = left[-3:]
        connection.descriptor = (Stay.SLOW_CLIENT, left)
        connection.transport.write(HEAD + CHUNK)
    else:
        connection.stay = Stay.SLOW_CLIENT
        left = HEAD if when == "when it is asked for" else left
        connection.transport.write(left)
    assert await attempt.decision() is None
    assert (attempt.state, attempt.stay) == (State.KEPT, Stay.SLOW_CLIENT)
    assert original.written == left, "what was not written yet, and nothing twice"


@pytest.mark.parametrize("way", ["timeout", "end"])
async def test_what_is_held_back_goes_out_in_time(way: str) -> None:
    connection = Connection()
    attempt = begin(connection, 60.0 if way == "end" else 0.01)
    connection.transport.write(HEAD)
    recorder = connection.transport
    if way == "end":
        attempt.end()
    assert await attempt.decision() is None
    assert (attempt.state, attempt.stay) == (State.KEPT, Stay.LATE)
    recorder.write(CHUNK)
    assert connection.transport.written == HEAD + CHUNK, "also through the recorder, should somebody have it"


async def test_nothing_is_written_to_a_connection_that_is_gone() -> None:
    connection = Connection()
    attempt = begin(connection)
    connection.transport.write(HEAD)
    original = connection.transport.transport
    original.close()
    attempt.end()
    assert original.written == b""


async def test_closing_writes_what_was_held_back() -> None:
    connection = Connection()
    original = connection.transport
    begin(connection)
    connection.transport.write(HEAD)
    connection.transport.close()
    assert (original.written, original.closed) == (HEAD, "closed")
    connection = Connection()
    original = connection.transport
    begin(connection)
    connection.transport.write(HEAD)
    connection.transport.abort()
    assert (original.written, original.closed) == (b"", "aborted")


async def test_it_goes_on_below_whatever_stands_in_its_place() -> None:
    connection = Connection()
    attempt = begin(connection)
    recorder, other = connection.transport, object()
    connection.transport = other
    recorder.write(HEAD)
    attempt.end()
    assert connection.transport is other
    assert recorder.transport.written == HEAD


@pytest.mark.parametrize("taken", [True, False])
async def test_a_cancelled_caller_leaves_no_descriptor(taken: bool, descriptor: Descriptor) -> None:
    connection = Connection(descriptor.number)
    attempt = begin(connection)

    async def caller() -> None:
        try:
            await attempt.decision()
        finally:
            attempt.end()

    task = asyncio.create_task(caller())
    await asyncio.sleep(0)
    if taken:
        connection.transport.write(HEAD + CHUNK)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert attempt.state is (State.TAKEN if taken else State.KEPT)
    assert descriptor.is_closed() is taken


async def test_a_descriptor_nobody_asked_for_is_closed(descriptor: Descriptor) -> None:
    connection = Connection(descriptor.number)
    attempt = begin(connection)
    connection.transport.write(HEAD + CHUNK)
    attempt.end()
    attempt.end()
    assert await attempt.decision() is None
    assert descriptor.is_closed()


async def test_it_begins_once() -> None:
    attempt = Attempt(Connection())
    with pytest.raises(ValueError, match="begin once"):
        attempt.begin(b"")
    attempt.begin(b"x")
    with pytest.raises(ValueError, match="begin once"):
        attempt.begin(b"y")
    attempt.end()
