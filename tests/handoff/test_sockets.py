"""Sockets given to the reactor directly, as no server does it: what happens in unlucky moments."""

from __future__ import annotations

import socket
from typing import Any

from sse_hub import Hub, Subscription, _core
from waiting import until_async


def hand_over(
    hub: Hub, on_end: Any = None, max_age: float | None = None
) -> tuple[Subscription, socket.socket]:
    """A client on a Unix socket, where no timeout of TCP helps, and its stream."""
    ours, theirs = socket.socketpair()
    request = _core._Request(
        "t", replay=0, user=None, overflow=None, capacity=None, max_age=max_age, initial=False
    )
    return hub._hand_over(ours.detach(), request, None, None, group=1, on_end=on_end), theirs


async def test_a_stream_that_is_closed_while_its_client_takes_nothing_is_freed() -> None:
    with Hub(stall_timeout=0.2, heartbeat=None, grace=0) as hub:
        subscription, client = hand_over(hub)
        with client:
            hub.publish("t", raw_data="x" * 1_000_000)  # more than the socket takes
            await until_async(lambda: hub.stats()["delivered"] == 2)
            subscription.close()
            await until_async(lambda: hub.stats()["handed_off"] == 0)


async def test_a_stream_that_ends_while_it_is_handed_over_is_reported() -> None:
    ended: list[str] = []
    with Hub(grace=0) as hub:
        reasons: list[str] = []
        hub.on_disconnect(lambda subscription, reason: reasons.append(reason))
        clients = [hand_over(hub, ended.append, max_age=1e-9)[1] for _ in range(500)]
        await until_async(lambda: len(reasons) == len(ended) == 500)
        assert set(reasons) == set(ended) == {"max_age"}
        for client in clients:
            client.close()
