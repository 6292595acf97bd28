"""``initial=`` that fails: the body is broken off, on every path, so that no client takes it for complete."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from handoff_serving import Complaints
from waiting import until
from wire import WAYS, Site


async def fails_at_once(subscription: object) -> None:
    raise LookupError("the database is down")


async def fails_later(subscription: object) -> AsyncIterator[Any]:
    yield 1
    raise LookupError("the database is down")


def unknown_value(subscription: object) -> object:
    return object()


@pytest.mark.parametrize("initial", [fails_at_once, fails_later, unknown_value])
@pytest.mark.parametrize("way", WAYS)
def test_the_body_is_broken_off(way: str, initial: Callable[..., Any]) -> None:
    complaints = Complaints(logging.ERROR)
    logging.getLogger("uvicorn.error").addHandler(complaints)
    site = Site(way)
    try:
        hub = site.hub()
        reasons: list[str] = []
        hub.on_disconnect(lambda _, reason: reasons.append(reason))
        with site.stream(hub, initial=initial) as stream:
            assert [event.data for event in stream.rest() if not event.is_comment] == []
            assert stream.reset
            assert not stream.ended
        until(lambda: reasons == ["error"])
        # The server says why.
        until(lambda: [message.split("\n")[0] for message in complaints.messages] != [])
        assert "Exception in ASGI application" in complaints.messages[0]
    finally:
        logging.getLogger("uvicorn.error").removeHandler(complaints)
        site.close_hubs()
        site.close()
