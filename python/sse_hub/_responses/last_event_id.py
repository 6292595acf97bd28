"""The id from which a client wants to resume, as its request names it.

``Numbering::find`` in ``src/numbering.rs`` checks it and finds its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.requests import HTTPConnection
from starlette.types import Scope

__all__ = ["last_event_id"]


def last_event_id(request: HTTPConnection | Scope) -> str | None:
    """The id of the last event that the client of a request saw; None if the request names none.

    For generators that resume their own events; a hub's responses read it themselves. It is the
    ``Last-Event-ID`` header, or ``?last_event_id=`` or ``?lastEventId=``, for clients that cannot set the
    header: polyfills, and a first connection that continues from a page rendered on the server. An empty id
    counts as no id.

    Args:
        request: a Starlette or FastAPI request, or an ASGI scope.
    """
    scope = request.scope if isinstance(request, HTTPConnection) else request
    if not isinstance(scope, dict) and not isinstance(scope, Mapping):  # the first costs a tenth
        raise TypeError(f"request is a request or an ASGI scope, not {type(request).__name__}")
    for name, value in scope["headers"]:
        if name == b"last-event-id" and value:
            header: bytes = value
            return header.decode("utf-8", "replace")  # WHATWG HTML, 9.2.4
    query = scope.get("query_string", b"")
    if b"ast" in query:  # last_event_id, lastEventId
        values: dict[str, list[str]] = parse_qs(query.decode("latin-1"))
        for parameter in ("last_event_id", "lastEventId"):
            if parameter in values:
                return values[parameter][0]
    return None
