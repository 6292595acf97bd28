"""Who may listen, and for how long: through real sockets and on both paths."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sse_hub import EndReason, EventSourceResponse, Hub
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from waiting import PATIENCE, until
from wire import WAYS, Site, names

SITES = tuple(WAYS)


def ask(site: Site, **headers: str) -> httpx.Response:
    """The answer to a request that gets no stream."""
    return httpx.get(f"http://127.0.0.1:{site.port}/", headers=headers, timeout=PATIENCE)


def ends(hub: Hub) -> list[EndReason]:
    """Why its streams end from now on."""
    reasons: list[EndReason] = []
    hub.on_disconnect(lambda subscriber, reason: reasons.append(reason))
    return reasons


# --- Authorizations that expire --------------------------------------------------------------------


def test_a_stream_ends_when_its_authorization_expires(site: Site) -> None:
    hub = site.hub()
    reasons = ends(hub)
    hub.publish("t", 1)
    expires = datetime.now(UTC) + timedelta(seconds=1)
    with site.stream(hub, expires=expires, replay=1) as stream:
        assert names(stream.rest()) == ["1"]
        assert datetime.now(UTC) > expires - timedelta(seconds=0.1), "a twentieth early at most"
        assert stream.ended, "the body is complete, so that a browser comes back"
    until(lambda: reasons == ["expired"])
    assert reasons[0].kind == "expired"
    assert hub.stats()["ends"]["expired"] == 1
    until(lambda: datetime.now(UTC) > expires)
    answer = ask(site, Last_Event_ID=stream.last_event_id)
    assert (answer.status_code, answer.content) == (401, b"")
    assert answer.headers["cache-control"] == "no-store"


def test_the_earlier_of_two_limits_ends_the_stream(site: Site) -> None:
    hub = site.hub()
    reasons = ends(hub)
    with site.stream(hub, expires=time.time() + 3600, max_age=0.2) as stream:
        assert stream.rest() == []
    until(lambda: reasons == ["max_age"])


def test_a_subscription_of_the_applications_own_expires(site: Site) -> None:
    hub = site.hub()
    reasons = ends(hub)

    async def events(request: Request) -> Response:
        return EventSourceResponse(hub.subscribe("t", expires=time.time() + 0.5))

    site.app = Starlette(routes=[Route("/", events)])
    with site.raw() as stream:
        stream.opened()
        assert stream.rest() == []
        assert stream.ended
    until(lambda: reasons == ["expired"])


@pytest.mark.parametrize("options", [{}, {"control": False}, {"hold_dependencies": True}])
def test_an_authorization_that_has_expired_gets_a_401(site: Site, options: dict[str, Any]) -> None:
    hub = site.hub()
    site.app = hub.endpoint("t", expires=time.time() - 1, **options)
    assert ask(site).status_code == 401
    assert hub.stats()["connected"] == 0
