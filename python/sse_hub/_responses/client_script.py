"""The module for browsers, as a response."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

__all__ = ["ClientScript"]

_PATH = Path(__file__).parent.parent / "_client" / "sse-hub.min.js"


@cache
def _module() -> tuple[bytes, str]:
    """The module, and a version that changes with every byte of it."""
    content = _PATH.read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:16]


class ClientScript(Response):
    """What ``Hub.client_js`` returns; it may be sent any number of times, so it is also an ASGI app."""

    media_type = "text/javascript"

    version: str
    """A string that changes with every byte of the module, for its URL: ``f"/sse-hub.js?v={version}"``."""

    def __init__(self) -> None:
        content, self.version = _module()
        super().__init__(
            content,
            headers={
                "Cache-Control": "no-cache",
                "ETag": f'"{self.version}"',
                "X-Content-Type-Options": "nosniff",
            },
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = list(self.raw_headers)
        if scope.get("query_string", b"") == f"v={self.version}".encode():
            forever = (b"cache-control", b"public, max-age=31536000, immutable")
            headers = [forever if name == b"cache-control" else (name, value) for name, value in headers]
        status, body = 200, bytes(self.body)
        if self._is_cached(scope):
            status, body = 304, b""
            headers = [(name, value) for name, value in headers if name != b"content-length"]
        elif scope.get("method") == "HEAD":
            body = b""
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _is_cached(self, scope: Scope) -> bool:
        """Whether the client has this version (RFC 9110, 13.1.2); a proxy that compresses weakens the tag."""
        given = b",".join(value for name, value in scope["headers"] if name == b"if-none-match").decode(
            "latin-1"
        )
        tags = {tag.strip().removeprefix("W/") for tag in given.split(",")}
        return "*" in tags or f'"{self.version}"' in tags
