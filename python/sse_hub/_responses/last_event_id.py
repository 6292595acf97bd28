"""The id from which a client wants to resume."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.types import Scope

__all__ = ["last_event_id"]


def last_event_id(scope: Scope) -> str | None:
    """The id that the request of ``scope`` names as the last one its client saw; None if it names none.

    The header's bytes are UTF-8 (WHATWG HTML, 9.2.4). The query parameters are for clients that cannot set
    it: polyfills, and a first connection that continues from a page rendered on the server.
    """
    for name, value in scope["headers"]:
        if name == b"last-event-id":
            header: bytes = value
            return header.decode("utf-8", "replace")
    query = scope.get("query_string", b"")
    if b"ast" in query:  # last_event_id, lastEventId
        values: dict[str, list[str]] = parse_qs(query.decode("latin-1"))
        for parameter in ("last_event_id", "lastEventId"):
            if parameter in values:
                return values[parameter][0]
    return None
