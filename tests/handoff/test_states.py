"""The offer by itself: what can become of it, and of the descriptor in it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import closing

import pytest
from sse_hub import _core
from sse_hub._handoff.offer import Offer, State
from sse_hub._stopping.registry import RunningServer


class Open:
    """A connection that can always leave."""

    def __init__(self) -> None:
        self.server = RunningServer(asyncio.get_running_loop())

    def can_leave(self) -> bool:
        return True


class Descriptor:
    """A descriptor to give away: the end of a pipe, so that the other end knows whether it is open."""

    def __init__(self) -> None:
        self.number, self._other = os.pipe()

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


async def test_the_descriptor_goes_to_who_asks_and_once(descriptor: Descriptor) -> None:
    connection = Open()
    offer = Offer(connection)
    assert offer.server is connection.server
    assert offer.is_open()
    offer.announce(b"x")
    offer.take(descriptor.number)
    assert not offer.is_open()
    assert await offer.decision() == descriptor.number
    assert await offer.decision() is None
    offer.end()
    assert not descriptor.is_closed()
    assert offer.server is connection.server
    ended = Offer(Open())
    ended.end()
    with pytest.raises(RuntimeError, match="over"):
        _ = ended.server


async def test_it_is_waited_for(descriptor: Descriptor) -> None:
    offer = Offer(Open())
    offer.announce(b"x")
    asyncio.get_running_loop().call_soon(offer.take, descriptor.number)
    assert await offer.decision() == descriptor.number
    assert not descriptor.is_closed()


async def test_refused_is_none_and_stays_so() -> None:
    offer = Offer(Open())
    offer.announce(b"x")
    asyncio.get_running_loop().call_soon(offer.refuse)
    assert await offer.decision() is None
    offer.end()
    assert offer.state is State.REFUSED


async def test_without_an_answer_it_is_withdrawn() -> None:
    offer = Offer(Open())
    offer.announce(b"x")
    assert await offer.decision(timeout=0.01) is None
    assert offer.state is State.WITHDRAWN
    with pytest.raises(AssertionError):
        offer.take(0)


async def test_without_an_announcement_it_is_withdrawn() -> None:
    offer = Offer(Open())
    assert await offer.decision() is None
    assert offer.state is State.WITHDRAWN


@pytest.mark.parametrize("taken", [True, False])
async def test_a_cancelled_caller_leaves_no_descriptor(taken: bool, descriptor: Descriptor) -> None:
    offer = Offer(Open())
    offer.announce(b"x")
    task = asyncio.create_task(offer.decision())
    await asyncio.sleep(0)
    if taken:
        offer.take(descriptor.number)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert offer.state is (State.TAKEN if taken else State.WITHDRAWN)
    assert descriptor.is_closed() is taken


async def test_a_descriptor_nobody_asked_for_is_closed(descriptor: Descriptor) -> None:
    offer = Offer(Open())
    offer.announce(b"x")
    offer.take(descriptor.number)
    offer.end()
    offer.end()
    assert await offer.decision() is None
    assert descriptor.is_closed()


async def test_one_preamble_is_announced() -> None:
    offer = Offer(Open())
    with pytest.raises(ValueError, match="one preamble"):
        offer.announce(b"")
    offer.announce(b"x")
    with pytest.raises(ValueError, match="one preamble"):
        offer.announce(b"y")
