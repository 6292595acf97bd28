"""What is refused; nothing is published then."""

from __future__ import annotations

import asyncio
import functools
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from sse_hub import (
    EventSourceResponse,
    EventTooLarge,
    Hub,
    HubClosed,
    HubError,
    HubFull,
    InvalidEvent,
    NotAuthorized,
    RedisBroker,
)
from sse_hub.event import ServerSentEvent
from sse_hub.testing import connect
from waiting import PATIENCE

REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"data": 1, "event": "a\rb"}, InvalidEvent, r'event "a\\rb" must not contain control characters'),
    ({"data": 1, "event": "a\nb"}, InvalidEvent, "must not contain control characters"),
    ({"data": 1, "event": "a\0b"}, InvalidEvent, "must not contain control characters"),
    ({"data": 1, "event": "a\tb"}, InvalidEvent, "must not contain control characters"),
    ({"data": 1, "event": "x\nid: 7\ndata: forged"}, InvalidEvent, "must not contain control characters"),
    ({"data": 1, "event": ""}, InvalidEvent, "must not be empty"),
    ({"data": 1, "event": "open"}, InvalidEvent, "fired by EventSource itself"),
    ({"data": 1, "event": "error"}, InvalidEvent, "fired by EventSource itself"),
    ({"data": 1, "event": "stream-open"}, InvalidEvent, "the hub's own"),
    ({"data": 1, "event": "stream-mine"}, InvalidEvent, "the hub's own"),
    ({"data": 1, "event": "\ud800"}, InvalidEvent, "event has a lone surrogate"),
    ({"data": 1, "comment": "\ud800"}, InvalidEvent, "comment has a lone surrogate"),
    ({"raw_data": "\ud800"}, InvalidEvent, "raw_data has a lone surrogate"),
    ({"data": {"a": "\ud800"}}, InvalidEvent, "surrogate"),
    ({"raw_data": b"\xff"}, InvalidEvent, "raw_data is not UTF-8"),
    ({"raw_data": 7}, TypeError, "raw_data is a str or UTF-8 bytes, not int"),
    ({"data": 1, "retry": -1}, InvalidEvent, r"retry must be from 0 to .* not -1"),
    ({"data": 1, "retry": 2**64}, InvalidEvent, "retry must be from 0"),
    ({"data": 1, "retry": True}, TypeError, "retry is an int of milliseconds, not bool"),
    ({"data": 1, "retry": 1.5}, TypeError, "retry is an int of milliseconds, not float"),
    ({"data": float("nan")}, InvalidEvent, "^data cannot be written as JSON: .*: nan$"),
    ({"data": {"x": "\ud800"}}, InvalidEvent, r"^data cannot be written as JSON: .*'\\ud800'"),
    ({"data": {"x": b"\xff"}}, InvalidEvent, "^data cannot be written as JSON: .* byte 0xff"),
    ({"data": [1, {"x": float("inf")}]}, InvalidEvent, "inf"),
    ({"data": object()}, TypeError, "object"),
    ({"data": 1, "raw_data": "1"}, TypeError, "not both"),
    ({}, TypeError, "nothing to publish"),
    ({"event": "tick"}, InvalidEvent, "has no data"),
    ({"data": ServerSentEvent("x", id="7")}, InvalidEvent, "id='7' cannot be set"),
    ({"data": ServerSentEvent("x", event="open")}, InvalidEvent, "fired by EventSource itself"),
    ({"data": ServerSentEvent("x"), "event": "y"}, TypeError, "has its own event"),
    ({"data": "x" * 1000}, EventTooLarge, r"event of \d+ bytes is larger than max_event_bytes=900"),
]


@pytest.mark.parametrize(("event", "error", "message"), REFUSED)
async def test_a_wrong_event_is_refused_where_it_is_made(
    event: dict[str, Any], error: type[Exception], message: str
) -> None:
    hub = Hub(max_event_bytes=900)
    async with connect(hub.endpoint("t"), "/") as client:
        (subscriber,) = hub.subscribers()
        refused = [
            lambda: hub.publish("t", **event),
            lambda: hub.broadcast(**event),
            lambda: hub.send(subscriber.id, **event),
            lambda: subscriber.send(**event),
        ]
        for attempt in refused:
            with pytest.raises(error, match=message):
                attempt()
        await client.silent(0)
        assert hub.stats()["published"] == hub.stats()["cursor"] == hub.stats()["history_events"] == 0
        hub.publish("t", "fine")
        assert (await client.next()).id.endswith("-1"), "not even a number was used"


def test_a_wrong_event_of_fastapi_s_is_refused() -> None:
    from fastapi.sse import ServerSentEvent  # newer than the oldest FastAPI

    hub = Hub()
    for wrong, message in [
        (ServerSentEvent(data=1, id="7"), "id='7' cannot be set"),
        (ServerSentEvent(data=1, event="stream-x"), "the hub's own"),
    ]:
        with pytest.raises(InvalidEvent, match=message):
            hub.publish("t", wrong)
    assert hub.stats()["published"] == 0


def test_invalid_events_are_value_errors_and_hub_errors() -> None:
    assert issubclass(InvalidEvent, ValueError)
    assert issubclass(InvalidEvent, HubError)
    assert issubclass(EventTooLarge, InvalidEvent)


@pytest.mark.parametrize(
    ("topics", "error", "message"),
    [
        ("", ValueError, "must not be empty"),
        ("a\nb", ValueError, "control character"),
        ("chat:*", ValueError, "patterns set retention"),
        ("x" * 256, ValueError, "255"),
        ([], ValueError, "at least one topic"),
        (b"t", TypeError, "not bytes"),
        (7, TypeError, "a str or an iterable of str, not int"),
        ({"gold": 1}, TypeError, "not dict: the data comes second"),
        (["a", 7], TypeError, "a topic is a str, not int"),
        ("\ud800", ValueError, "a topic's name has a lone surrogate"),
    ],
)
async def test_a_wrong_topic_is_refused(topics: Any, error: type[Exception], message: str) -> None:
    hub = Hub()
    with pytest.raises(error, match=message):
        hub.publish(topics, 1)
    assert hub.stats()["cursor"] == 0
    if topics != []:
        with pytest.raises(error, match=message):
            hub.subscribe(topics)
        with pytest.raises(error, match=message):
            hub.response(topics)
        with pytest.raises(error, match=message):
            hub.endpoint(topics)
        with pytest.raises(error, match=message):
            hub.subscribe("t").join(topics)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("replay", -1),
        ("replay", "some"),
        ("overflow", "ignore"),
        ("capacity", 0),
        ("max_age", 0),
        ("max_age", float("nan")),
        ("expires", float("nan")),
        ("expires", -1),
        ("expires", 900),  # meant as a duration
        ("expires", 1_800_000_000_000),
        ("expires", 10**400),
        ("expires", datetime(2030, 1, 1)),
        ("replay", 2**63),
        ("replay", -(2**63) - 1),
        ("capacity", 2**63),
        ("capacity", -(10**100)),
    ],
)
async def test_a_wrong_option_is_refused_when_it_is_given(option: str, value: Any) -> None:
    hub = Hub()
    for attempt in (hub.subscribe, hub.response, hub.endpoint):
        with pytest.raises(ValueError, match=option):
            attempt("t", **{option: value})
    assert hub.count() == 0


@pytest.mark.parametrize("expires", ["soon", True, b"1"])
async def test_expires_of_a_wrong_type_is_refused(expires: Any) -> None:
    hub = Hub()
    for attempt in (hub.subscribe, hub.response, hub.endpoint):
        with pytest.raises(TypeError, match=f"seconds since the epoch, not {type(expires).__name__}$"):
            attempt("t", expires=expires)


async def test_expires_in_the_past_subscribes_nobody() -> None:
    hub = Hub()
    for expires in (0, time.time() - 60, datetime.now(UTC) - timedelta(minutes=1)):
        with pytest.raises(NotAuthorized, match=r"expires= was \d+ seconds ago"):
            hub.subscribe("t", expires=expires)
    assert hub.stats()["connected"] == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("history", -1),
        ("history_bytes", -1),
        ("history_age", 0),
        ("history_total_bytes", -1),
        ("heartbeat", 0),
        ("heartbeat", float("nan")),
        ("reconnect", (5, 1)),
        ("reconnect", (-1, 1)),
        ("capacity", 0),
        ("capacity_bytes", 0),
        ("overflow", "drop"),
        ("stall_timeout", 0),
        ("backlog_bytes", 0),
        ("max_event_bytes", 0),
        ("max_subscribers", -1),
        ("max_per_user", 0),
        ("max_topics", 0),
        ("grace", -1),
        ("threads", 0),
        ("threads", 1_000_000),
    ],
)
def test_a_hub_checks_its_options(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        Hub(**{option: value})


@pytest.mark.parametrize(
    ("option", "least"),
    [
        ("history", 0),
        ("history_bytes", 0),
        ("history_total_bytes", 0),
        ("capacity", 1),
        ("capacity_bytes", 1),
        ("backlog_bytes", 1),
        ("max_event_bytes", 1),
        ("max_subscribers", 0),
        ("max_per_user", 1),
        ("max_topics", 1),
        ("threads", 1),
    ],
)
def test_a_hub_says_what_is_wrong_with_a_number_of_any_size(option: str, least: int) -> None:
    most = 1024 if option == "threads" else 2**63 - 1
    for value in (least - 1, -(2**63) - 1, -(10**100)):
        with pytest.raises(ValueError, match=f"^{option} must be at least {least}, not {value}$"):
            Hub(**{option: value})
    for value in (2**63, 2**64, 10**100):
        with pytest.raises(ValueError, match=f"^{option} must be at most {most}, not {value}$"):
            Hub(**{option: value})
    with pytest.raises(
        ValueError, match=f"^{option} must be at most {most}, not one of thousands of digits$"
    ):
        Hub(**{option: 10**5000})
    if option != "threads":
        Hub(**{option: most})


@pytest.mark.parametrize("reconnect", [(1, 1), [1, 1], [1.0, 1.0]])
async def test_reconnect_is_a_pair_in_a_tuple_or_a_list(reconnect: Any) -> None:
    async with Hub(reconnect=reconnect).subscribe("t") as subscription:
        assert b"retry: 1000\n" in await anext(subscription)
    for wrong in ([1], (1, 2, 3), 5, "15"):
        with pytest.raises((TypeError, ValueError)):
            Hub(reconnect=wrong)


def test_retention_says_what_is_wrong_with_a_number_of_any_size() -> None:
    hub = Hub()
    with pytest.raises(
        ValueError, match=r"^history must be at most 9223372036854775807, not 9223372036854775808$"
    ):
        hub.topic("chat:*", history=2**63)
    with pytest.raises(ValueError, match=r"^history_bytes must be at least 0, not -9223372036854775809$"):
        hub.topic("chat:*", history_bytes=-(2**63) - 1)


def test_a_retry_of_any_size_is_refused_with_its_rule() -> None:
    hub = Hub()
    for value, shown in (
        (2**64, str(2**64)),
        (-(10**100), str(-(10**100))),
        (10**5000, "one of thousands of digits"),
    ):
        with pytest.raises(
            InvalidEvent, match=rf"^retry must be from 0 to 2\*\*64 - 1 milliseconds, not {shown}$"
        ):
            hub.publish("t", 1, retry=value)


def test_what_is_no_function_is_refused_when_it_is_given() -> None:
    hub = Hub()
    for refused in (hub.on_connect, hub.on_disconnect):
        with pytest.raises(TypeError, match=rf"^{refused.__name__} takes a function, def or async, not int$"):
            refused(1)  # type: ignore[type-var]
    for option in ("initial", "background"):
        with pytest.raises(TypeError, match=rf"^{option} takes a function, not int$"):
            hub.response("t", **{option: 1})
    with pytest.raises(TypeError, match=r"^last_event_id is a str, not int$"):
        hub.response("t", last_event_id=1)  # type: ignore[arg-type]


def none_at_all() -> None: ...
def one(first: object) -> None: ...
def four(first: object, second: object, third: object, *, fourth: object) -> None: ...
async def any_number(*all: object) -> None: ...
def one_or_more(first: object, second: object = 2, *rest: object, last: int = 3) -> None: ...


class Callbacks:
    def method(self, first: object) -> None: ...
    def __call__(self, first: object) -> None: ...


@functools.wraps(none_at_all)
def passes_its_own(first: object) -> None:
    """As a decorator does that calls its function with other arguments, or with none."""


def registering() -> dict[str, tuple[Callable[[Any], object], str]]:
    """What takes a function, and what that is called with."""
    hub = Hub()
    runs = lambda **option: asyncio.run(hub.run("r", any_number, **option))  # noqa: E731
    return {
        "on_connect": (hub.on_connect, "of (subscription)"),
        "on_disconnect": (hub.on_disconnect, "of (subscription, reason)"),
        "authorize": (hub.authorize, "of (user, topics)"),
        "initial": (lambda given: hub.response("t", initial=given), "of (subscription)"),
        "background": (lambda given: hub.response("t", background=given), "without arguments"),
        "endpoint": (hub.endpoint, "of (request)"),
        "endpoint(per_request=…)": (lambda given: hub.endpoint("t", per_request=given), "of (request)"),
        "on_finish": (lambda given: runs(on_finish=given), "of (run, events)"),
        "error": (lambda given: runs(error=given), "of (exception)"),
        "once": (lambda given: asyncio.run(hub.once("o", given)), "of (publish)"),
        **{
            name: (lambda given, name=name: EventSourceResponse([], **{name: given}), takes)
            for name, takes in [
                ("data_sender_callable", "without arguments"),
                ("ping_message_factory", "without arguments"),
                ("client_close_handler_callable", "of (message)"),
            ]
        },
    }


@pytest.mark.parametrize("name", registering())
def test_a_function_that_cannot_be_called_is_refused_when_it_is_given(name: str) -> None:
    register, takes = registering()[name]
    wrong = four if takes == "without arguments" else none_at_all
    with pytest.raises(TypeError) as refused:
        register(wrong)
    shown = "four(first, second, third, *, fourth)" if wrong is four else "none_at_all()"
    assert str(refused.value) == f"{name} takes a function {takes}, not {shown}"


def test_a_function_is_refused_only_if_its_call_is_certain_to_fail() -> None:
    hub = Hub()
    for fits in [
        one,
        any_number,
        one_or_more,
        passes_its_own,
        Callbacks().method,
        Callbacks(),
        functools.partial(one_or_more, last=4),
        functools.partial(four, third=3, second=2, fourth=4),
        functools.partial(any_number, 1),
        print,
        dict,
        Mock(),
        Mock(spec=none_at_all),
        lambda *_, **__: None,
    ]:
        assert hub.on_connect(fits) is fits
    for fails in [none_at_all, four, Callbacks.method, functools.partial(one, 1), lambda *, key: None]:
        with pytest.raises(TypeError, match=r"^on_connect takes a function of \(subscription\), not "):
            hub.on_connect(fails)


def test_a_status_that_no_stream_can_have_is_refused() -> None:
    hub = Hub()
    for status in (-1, 0, 99, 101, 199, 204, 205, 304, 600, 1000):
        with pytest.raises(ValueError, match=rf"^status_code must be from 200 to 599 .* not {status}$"):
            hub.response("t", status_code=status)
    with pytest.raises(ValueError, match="status_code"):
        hub.endpoint(lambda request: "t", status_code=99)
    for status in (200, 201, 206, 299, 404, 503, 599, HTTPStatus.OK):
        hub.response("t", status_code=status)
    for wrong in ("200", 200.0, True, None):
        with pytest.raises(TypeError, match=rf"^status_code is an int, not {type(wrong).__name__}$"):
            hub.response("t", status_code=wrong)  # type: ignore[arg-type]


def test_a_grace_is_checked_wherever_it_is_given() -> None:
    hub = Hub()
    for give in (lambda grace: Hub(grace=grace), hub.close, lambda grace: asyncio.run(hub.aclose(grace))):
        with pytest.raises(TypeError, match=r"^grace is a number of seconds, not str$"):
            give("1")
        with pytest.raises(ValueError, match=r"^grace must be a number of seconds from 0, not -1$"):
            give(-1)


async def test_an_event_as_large_as_allowed_is_taken() -> None:
    hub = Hub(max_event_bytes=1000)
    async with connect(hub.endpoint("t"), "/") as client:
        size = next(size for size in range(1000, 0, -1) if _fits(hub, "x" * size))
        event = await client.next()
        assert len(event.data) == size > 900


def _fits(hub: Hub, text: str) -> bool:
    try:
        hub.publish("t", raw_data=text)
    except EventTooLarge:
        return False
    return True


def test_a_blocked_loop_makes_the_hub_full_and_loses_nothing() -> None:
    hub = Hub(backlog_bytes=100_000, overflow="drop_newest", capacity=1)
    blocked, release = threading.Event(), threading.Event()
    got: list[int] = []

    async def consume() -> None:
        async with connect(hub.endpoint("t"), "/") as client:
            blocked.set()
            release.wait()  # The whole event loop stands still.
            while (event := await client.next(PATIENCE)).json()["n"] >= 0:
                got.append(event.json()["n"])

    thread = threading.Thread(target=lambda: asyncio.run(consume()), daemon=True)
    thread.start()
    blocked.wait()
    taken, refusal = 0, ""
    while not refusal and taken < 1000:
        try:
            hub.publish("t", {"n": taken, "fill": "x" * 1000})
            taken += 1
        except HubFull as full:
            refusal = str(full)
    stats = hub.stats()
    release.set()
    assert refusal.endswith("more than backlog_bytes=100000; nothing was published")
    assert 80 < taken < 100
    assert (stats["refused"], stats["cursor"]) == (1, taken)
    while thread.is_alive():
        with suppress(HubFull):
            hub.publish("t", {"n": -1})
        thread.join(0.01)
    assert got == list(range(taken))


async def test_a_hub_refuses_only_while_it_closes() -> None:
    hub = Hub()
    async with connect(hub.endpoint("t"), "/") as client:
        (subscriber,) = hub.subscribers()
        client.pause()
        hub.publish("t", 1)
        closing = asyncio.create_task(hub.aclose(grace=PATIENCE))
        await asyncio.sleep(0)
        for attempt in (
            lambda: hub.publish("t", 2),
            lambda: hub.broadcast(2),
            lambda: hub.subscribe("t"),
            lambda: subscriber.join("u"),
        ):
            with pytest.raises(HubClosed, match="closing"):
                attempt()
        async with connect(hub.endpoint("t"), "/") as late:
            assert late.status_code == 200
            assert await late.rest() == []
            assert late.retry == 30_000
        client.resume()
        await closing
        assert [event.data for event in await client.rest()] == ["1"]
        assert hub.publish("t", 3).id is not None


@pytest.mark.parametrize(
    "url", ["events", " ", "localhost:6379/0", "/var/events", "ann:s3cret@localhost:6379"]
)
def test_what_is_no_url_of_a_broker_is_refused_with_those_that_are(url: str) -> None:
    message = '"file:events", "redis://localhost:6379" or the like, not '
    with pytest.raises(ValueError, match=message) as refused:
        Hub(url)
    assert "s3cret" not in str(refused.value)


def test_a_hub_over_files_works_or_is_refused(tmp_path: Path) -> None:
    broker = f"file:{tmp_path.as_posix()}/events"
    if sys.platform == "win32":
        with pytest.raises(ValueError, match="needs Linux or macOS: run one worker with Hub"):
            Hub(broker)
    else:
        with Hub(broker) as hub:
            assert hub.publish("t", 1).result(PATIENCE)


@pytest.mark.parametrize("scheme", ["http", "rediss+unix", "FILE", "redis+cluster"])
def test_an_unknown_scheme_is_refused_with_those_that_are_known(scheme: str) -> None:
    with pytest.raises(ValueError, match=f'not "{re.escape(scheme)}"$') as refused:
        Hub(f"{scheme}://ann:s3cret@localhost")
    with pytest.raises(ValueError, match="scheme") as of_redis:
        RedisBroker(f"{scheme}://ann:s3cret@localhost")
    assert str(refused.value) == str(of_redis.value).replace("scheme redis://", "scheme file:, redis://")
    assert "s3cret" not in str(refused.value)


SCHEMES = [
    *("redis", "rediss", "valkey", "valkeys", "redis+sentinel", "rediss+sentinel", "valkey+sentinel"),
    "valkeys+sentinel",
    *(("redis+unix", "valkey+unix", "unix") if sys.platform != "win32" else ()),
]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_hub_takes_the_schemes_that_its_broker_takes(scheme: str) -> None:
    url = f"{scheme}:///tmp/redis" if "unix" in scheme else f"{scheme}://localhost/mymaster"
    url = url if "sentinel" in scheme else url.replace("/mymaster", "/0")
    assert repr(Hub(url).broker) == repr(RedisBroker(url))


def test_a_path_is_refused_with_the_broker_that_takes_one(tmp_path: Path) -> None:
    message = r"^broker is a URL, .* or None, not \w+Path: give FileBroker\(path\) for files in a directory$"
    with pytest.raises(TypeError, match=message):
        Hub(tmp_path)  # type: ignore[arg-type]
