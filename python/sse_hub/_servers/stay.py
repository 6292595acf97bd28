"""Why a stream stays with its server instead of being handed off.

Where it is decided: ``sse_hub._handoff.attempt``, when the bytes of its beginning are written.
"""

from __future__ import annotations

import logging
from enum import StrEnum

__all__ = ["Stay", "log_once"]

logger = logging.getLogger("sse_hub")


class Stay(StrEnum):
    """The reasons, by the names that ``Hub.stats()["stayed"]`` counts them under."""

    OPTION = "option"
    ENVIRONMENT = "environment"
    PLATFORM = "platform"
    SERVER = "server"
    HIDDEN = "hidden"
    LIMIT_CONCURRENCY = "limit_concurrency"
    DEPENDENCIES = "hold_dependencies"
    STATUS = "status"
    FULL = "full"
    CONTENT = "content"
    TLS = "tls"
    HTTP_VERSION = "http_version"
    METHOD = "method"
    STARTED = "started"
    REQUEST_BODY = "request_body"
    EXPECT_CONTINUE = "expect_continue"
    PIPELINED = "pipelined"
    CLIENT_LEFT = "client_left"
    STOPPING = "stopping"
    MIDDLEWARE = "middleware"
    LATE = "late"
    SLOW_CLIENT = "slow_client"
    DESCRIPTORS = "descriptors"


_TEXTS = {
    Stay.OPTION: "handoff=False was given",
    Stay.ENVIRONMENT: "SSE_HUB_HANDOFF=0 is set",
    Stay.PLATFORM: "sockets cannot be handed off on this platform",
    Stay.SERVER: "the server is not a uvicorn whose connections are known here",
    Stay.HIDDEN: "middleware hides uvicorn's connection: it replaces receive, the scope and the task",
    Stay.LIMIT_CONCURRENCY: "uvicorn has --limit-concurrency, which counts only its own connections; "
    "Hub(handoff=True) hands streams off all the same",
    Stay.DEPENDENCIES: "hold_dependencies=True was given",
    Stay.STATUS: "the response's status is not 200",
    Stay.FULL: "the hub is full",
    Stay.CONTENT: "the subscription was iterated, or an option asks for more than its bytes",
    Stay.TLS: "the server encrypts the connection itself",
    Stay.HTTP_VERSION: "the request is not HTTP/1.1",
    Stay.METHOD: "a response to this method has no body, or it denies a WebSocket",
    Stay.STARTED: "another response was begun on the connection",
    Stay.REQUEST_BODY: "the request's body was not read",
    Stay.EXPECT_CONTINUE: "the client waits for 100 Continue",
    Stay.PIPELINED: "the client has sent its next request already",
    Stay.CLIENT_LEFT: "the client has left",
    Stay.STOPPING: "the server is stopping",
    Stay.MIDDLEWARE: "middleware changed the response's head or body",
    Stay.LATE: "middleware held the response's beginning back",
    Stay.SLOW_CLIENT: "the client does not take the response's beginning",
    Stay.DESCRIPTORS: "the process has no descriptor or thread left",
}

_logged = False


def log_once(stay: Stay | None) -> None:
    """Log whether the process's first stream was handed off (None) or why it was not."""
    global _logged
    if _logged:
        return
    _logged = True
    if stay is None:
        logger.info("streams are handed off: a thread of sse_hub writes them, not the server")
    else:
        logger.info("a stream stays with the server: %s; see docs/hand-off.md", _TEXTS[stay])
