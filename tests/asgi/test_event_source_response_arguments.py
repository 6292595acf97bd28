"""``EventSourceResponse``: arguments, headers and names, as sse-starlette has them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
import sse_hub.sse as ours
import sse_starlette.sse as peer
from scripted import HTTP, three
from sse_hub import EventSourceResponse, Hub
from starlette.background import BackgroundTask
from starlette.types import Message, Scope


def headers_of(response: Any, scope: Scope = HTTP) -> list[tuple[bytes, bytes]]:
    started: list[Message] = []

    async def send(message: Message) -> None:
        started.append(message)

    async def receive() -> Message:
        return await asyncio.Future()

    asyncio.run(response(scope, receive, send))
    headers: list[tuple[bytes, bytes]] = started[0]["headers"]
    return headers


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"status_code": 206},
        {
            "headers": {
                "X-Mine": "1",
                "Cache-Control": "public",
                "connection": "close",
                "x-accel-buffering": "yes",
            }
        },
        {"headers": {"Content-Type": "text/plain"}},
        {"media_type": "application/x-other"},
        {"media_type": None},
    ],
)
def test_headers_are_the_peers(options: dict[str, Any]) -> None:
    theirs = headers_of(peer.EventSourceResponse([], **options))
    assert headers_of(EventSourceResponse([], **options)) == theirs


def test_headers_are_each_response_s_own() -> None:
    class Other(EventSourceResponse):
        charset = "latin-1"

    usual = [*headers_of(EventSourceResponse([]))]
    changed = EventSourceResponse([])
    changed.headers["a"] = "b"
    changed.raw_headers.pop(0)
    assert headers_of(EventSourceResponse([])) == usual
    assert (b"content-type", b"text/event-stream; charset=latin-1") in headers_of(Other([]))
    assert (b"content-type", b"text/plain; charset=utf-8") in headers_of(
        EventSourceResponse([], media_type="text/plain")
    )


def test_no_connection_header_on_http_2() -> None:
    headers = dict(headers_of(EventSourceResponse([]), {**HTTP, "http_version": "2"}))
    assert b"connection" not in headers
    assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert b"content-length" not in headers


@pytest.mark.parametrize(
    "options",
    [
        {"sep": "\n\n"},
        {"sep": ""},
        {"sep": "x", "ping": "x"},
        {"ping": "15"},
        {"ping": -1},
        {"ping": -1, "shutdown_grace_period": -1},
        {"ping": "x", "shutdown_grace_period": -1},
        {"shutdown_grace_period": -0.1},
        {"cleanup_timeout": -1},
        {"shutdown_grace_period": -1, "cleanup_timeout": -1},
    ],
)
def test_arguments_are_refused_as_by_the_peer(options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)) as theirs:
        peer.EventSourceResponse([], **options)
    with pytest.raises(type(theirs.value)) as mine:
        EventSourceResponse([], **options)
    assert str(mine.value).split(":")[0] == str(theirs.value).split(":")[0]


def test_attributes_and_defaults() -> None:
    assert EventSourceResponse.DEFAULT_PING_INTERVAL == 15
    assert EventSourceResponse.DEFAULT_SEPARATOR == "\r\n"
    assert EventSourceResponse.DEFAULT_CLEANUP_TIMEOUT == 30.0
    content = three()
    task = BackgroundTask(print)
    response = EventSourceResponse(content, 201, {"a": "b"}, "text/event-stream", task, 7, "\n")
    assert response.body_iterator is content
    assert (response.status_code, response.media_type, response.background) == (
        201,
        "text/event-stream",
        task,
    )
    assert (response.ping_interval, response.sep, response.active) == (7, "\n", True)
    assert response.data_sender_callable is response.send_timeout is response.ping_message_factory is None
    assert response.client_close_handler_callable is None
    assert response.headers["a"] == "b"
    response.ping_interval = 0.5
    with pytest.raises(TypeError):
        response.ping_interval = "1"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="ping interval"):
        response.ping_interval = -1
    assert response.ping_interval == 0.5
    with pytest.raises(NotImplementedError):
        response.enable_compression()


def test_module_paths_have_the_peers_names() -> None:
    for name in ("AppStatus", "AsyncContentStream", "Content", "ContentStream", "EventSourceResponse"):
        assert hasattr(ours, name)
    assert issubclass(ours.SendTimeoutError, TimeoutError)
    assert isinstance(ours.logger, logging.Logger)
    assert ours.ensure_bytes("x", "\n") == b"data: x\n\n"
    assert ours.SyncContentStream
    assert ours.JSONServerSentEvent


@pytest.mark.parametrize("content", [three, None, 7])
def test_what_yields_nothing_is_refused_at_the_call(content: Any) -> None:
    with pytest.raises(TypeError, match="content is a generator or another iterable, def or async, not "):
        EventSourceResponse(content)


def test_a_hub_and_its_response_are_refused_with_what_to_return() -> None:
    hub: Any = Hub()
    with pytest.raises(TypeError, match=r": it is a response already, return it as it is$"):
        EventSourceResponse(hub.response("prices"))
    with pytest.raises(TypeError, match=r"0 subscribers>: return its response\(topics\)$"):
        EventSourceResponse(hub)
