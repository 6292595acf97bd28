"""An argument of a wrong type is refused by an error that names it, and what it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sse_hub import EventSourceResponse, FileBroker, Hub, InvalidEvent, Publication, RedisBroker, Subscription
from sse_hub.hub import FollowOptions, StreamOptions, SubscribeOptions
from sse_hub.testing import Clock, EventClient, connect

TEXT, TEXT_OR_NONE = "is a str", "is a str or None"
INT, INT_OR_NONE = "is an int", "is an int or None"
SECONDS, SECONDS_OR_NONE = "is a number of seconds", "is a number of seconds or None"
FLAG, FLAG_OR_NONE = "is True or False", "is True, False or None"
PATH_OR_NONE = "is a path or None"
TOPICS = "is a str or an iterable of str"

ANY = ""
"""For an argument that takes whatever it is given."""

EVENT = {
    "data": ANY,
    "raw_data": "is a str or UTF-8 bytes",
    "event": TEXT_OR_NONE,
    "retry": "is an int of milliseconds",
    "comment": TEXT_OR_NONE,
    "key": TEXT_OR_NONE,
}
SUBSCRIBE = {
    "topics": TOPICS,
    "replay": "is an int or 'all'",
    "last_event_id": TEXT,
    "user": TEXT_OR_NONE,
    "info": ANY,
    "overflow": TEXT_OR_NONE,
    "capacity": INT_OR_NONE,
    "rate": "is a number of writes a second or None",
    "max_age": SECONDS_OR_NONE,
    "expires": "is an aware datetime or a number of seconds since the epoch",
    "control": FLAG,
}
RESPONSE = {
    **SUBSCRIBE,
    "initial": "takes a function",
    "compress": FLAG_OR_NONE,
    "handoff": FLAG_OR_NONE,
    "hold_dependencies": FLAG,
    "status_code": INT,
    "headers": "is a mapping of names to values",
    "background": "takes a function",
}
FIXED_BY_THE_RUN = ("topics", "control", "replay", "initial", "capacity", "overflow")
FOLLOW = {
    "format": TEXT_OR_NONE,
    **{name: takes for name, takes in RESPONSE.items() if name not in FIXED_BY_THE_RUN},
}

TAKES: dict[Callable[..., Any], dict[str, str]] = {
    Hub: {
        "broker": "is a URL, a FileBroker, a RedisBroker or None",
        "history": INT,
        "history_bytes": INT,
        "history_age": SECONDS_OR_NONE,
        "history_total_bytes": INT,
        "heartbeat": SECONDS_OR_NONE,
        "reconnect": "is a pair of numbers of seconds, (least, most)",
        "capacity": INT,
        "capacity_bytes": INT,
        "overflow": TEXT,
        "rate": "is a number of writes a second or None",
        "stall_timeout": SECONDS,
        "backlog_bytes": INT,
        "max_event_bytes": INT,
        "max_subscribers": INT_OR_NONE,
        "max_per_user": INT_OR_NONE,
        "max_topics": INT_OR_NONE,
        "full_status": "is 200 or 503",
        "compress": FLAG_OR_NONE,
        "grace": SECONDS,
        "threads": INT,
        "handoff": FLAG_OR_NONE,
        "trace": FLAG,
        "name": TEXT,
    },
    Hub.topic: {
        "pattern": TEXT,
        "history": INT,
        "history_bytes": INT,
        "history_age": SECONDS_OR_NONE,
    },
    Hub.publish: {"topics": TOPICS, **EVENT},
    Hub.broadcast: EVENT,
    Hub.send: {"subscriber_id": TEXT, **EVENT},
    Hub.disconnect: {"id": TEXT_OR_NONE, "user": TEXT_OR_NONE, "reason": TEXT},
    Hub.end: {"topic": TEXT, "keep": SECONDS},
    Hub.count: {"topic": TEXT_OR_NONE},
    Hub.subscribers: {"topic": TEXT_OR_NONE},
    Hub.presence: {"topic": TEXT_OR_NONE},
    Hub.get: {"id": TEXT},
    Hub.subscribe: SUBSCRIBE,
    Hub.response: RESPONSE,
    Hub.endpoint: {
        **RESPONSE,
        "methods": "is an iterable of str",
        "per_request": "takes a function, def or async",
    },
    Hub.channel: {"topic": TEXT, "events": "is a mapping of names to types or None"},
    Hub.channels: {"pattern": TEXT, "events": "is a mapping of names to types or None"},
    Hub.authorize: {"function": "takes a function, def or async", "every": SECONDS},
    Hub.on_connect: {"callback": "takes a function, def or async"},
    Hub.on_disconnect: {"callback": "takes a function, def or async"},
    Hub.run: {
        "name": TEXT,
        "function": "is a generator function that is not called yet",
        "keep": SECONDS,
        "idle": SECONDS,
        "max_bytes": INT,
        "on_finish": "takes a function",
        "error": "takes a function",
    },
    Hub.follow: {"name": TEXT, **FOLLOW},
    Hub.stop: {"name": TEXT},
    Hub.once: {"name": TEXT, "produce": "takes an async function"},
    Hub.close: {"grace": SECONDS},
    Hub.aclose: {"grace": SECONDS},
    Hub.client_js: {},
    Hub.stats: {},
    Subscription.join: {"topics": TOPICS},
    Subscription.ajoin: {"topics": TOPICS},
    Subscription.leave: {"topics": TOPICS},
    Subscription.send: EVENT,
    Subscription.close: {"drain": FLAG, "reason": TEXT_OR_NONE},
    Subscription.aclose: {},
    Publication.done: {},
    Publication.result: {"timeout": SECONDS_OR_NONE},
    FileBroker: {
        "path_or_url": "is a path or a file: URL",
        "timeout": SECONDS,
        "min_age": SECONDS,
        "sync": FLAG,
        "mode": INT,
    },
    RedisBroker: {
        "url": TEXT,
        "prefix": TEXT,
        "timeout": SECONDS,
        "connect_timeout": SECONDS,
        "min_age": SECONDS,
        "min_replicas": INT,
        "ca_certs": PATH_OR_NONE,
        "certfile": PATH_OR_NONE,
        "keyfile": PATH_OR_NONE,
    },
    connect: {
        "app": ANY,
        "url": TEXT,
        "method": TEXT,
        "headers": "is a mapping of names to values or None",
        "body": "is bytes",
        "last_event_id": TEXT,
        "control": FLAG,
        "comments": FLAG,
        "state": ANY,
    },
    Clock.advance: {"seconds": SECONDS},
    EventClient.next: {"timeout": SECONDS},
    EventClient.read: {"timeout": SECONDS},
}
NEEDED = {
    "topics": "t",
    "topic": "t",
    "pattern": "t",
    "subscriber_id": "s",
    "id": "s",
    "name": "n",
    "function": print,
    "produce": print,
    "path_or_url": "events",
    "url": "redis://localhost",
    "app": print,
    "events": None,
    "data": 1,
}
SIMILAR = {SECONDS: True, SECONDS_OR_NONE: True, INT: 1.0, INT_OR_NONE: True, TEXT: b"t", TEXT_OR_NONE: b"t"}
"""What is nearly of the type: a bool is no number, ``heartbeat=True`` would mean every second."""


def rows() -> Iterator[Any]:
    for call, arguments in TAKES.items():
        for name, takes in arguments.items():
            if takes is not ANY:
                yield pytest.param(call, name, takes, id=f"{call.__qualname__}-{name}")


async def called(call: Callable[..., Any], name: str, value: object) -> None:
    """Call a function, or a method of an object, with an argument, and with what it needs besides."""
    hub = Hub()
    objects: dict[str, Any] = {
        "Subscription": hub.subscribe("t"),
        "Publication": hub.publish("t", 1),
        "Clock": Clock(),
        "EventClient": None,
    }
    owner, _, method = call.__qualname__.partition(".")
    positional, named = [], {}
    async with connect(hub.endpoint("t"), "/") as objects["EventClient"]:
        bound = getattr(objects.get(owner, hub), method) if method else call
        for parameter in inspect.signature(bound).parameters.values():
            is_needed = parameter.default is parameter.empty or (
                parameter.name == "data" and name != "raw_data"
            )
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            if parameter.name == name or (is_needed and parameter.name in NEEDED):
                given = value if parameter.name == name else NEEDED[parameter.name]
                if parameter.kind is parameter.POSITIONAL_ONLY:
                    positional.append(given)
                else:
                    named[parameter.name] = given
        if name not in inspect.signature(bound).parameters:
            named[name] = value
        outcome = bound(*positional, **named)
        if inspect.isawaitable(outcome) and not isinstance(outcome, Publication):
            await outcome


@pytest.mark.parametrize(("call", "name", "takes"), [*rows()])
async def test_an_argument_of_a_wrong_type_is_named(call: Callable[..., Any], name: str, takes: str) -> None:
    if name in ("function", "callback", "produce") and call.__name__ != "run":
        name_in_text = call.__name__
    else:
        name_in_text = {"per_request": "endpoint(per_request=…)", "function": "a run's function"}.get(
            name, name
        )
    for wrong in (object(), SIMILAR.get(takes)):
        if wrong is not None:
            with pytest.raises(TypeError) as refused:
                await called(call, name, wrong)
            kind = type(wrong).__name__
            shown = repr(wrong) if name in ("methods", "function") and call is not Hub.authorize else kind
            assert str(refused.value) == f"{name_in_text} {takes}, not {shown}"


OPTIONS: dict[str, Any] = {
    f"Unpack[{options.__name__}]": options for options in (FollowOptions, StreamOptions, SubscribeOptions)
}


def test_the_table_has_every_argument_of_a_public_call() -> None:
    publics = [
        getattr(owner, name)
        for owner in (Hub, Subscription, Publication)
        for name in dir(owner)
        if not name.startswith("_") and callable(getattr(owner, name))
    ]
    for call in {*publics, Hub, FileBroker, RedisBroker, connect}:
        names = set()
        for parameter in inspect.signature(call).parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD and "Unpack" in str(parameter.annotation):
                options = OPTIONS[str(parameter.annotation)]
                names |= options.__optional_keys__
            elif parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                names.add(parameter.name)
        names = {name for name in names if not name.startswith("_")} - {"self", "cls"}
        assert set(TAKES[call]) == names, call


@pytest.mark.parametrize("option", ["control", "replay", "initial", "capacity", "overflow"])
def test_an_option_that_a_run_decides_is_refused_by_name(option: str) -> None:
    with pytest.raises(TypeError, match=f"^Hub.follow\\(\\) takes no '{option}': a watcher gets"):
        Hub().follow("answer", **{option: None})  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("option", "takes"),
    [
        ("status_code", INT),
        ("send_timeout", SECONDS),
        ("shutdown_grace_period", SECONDS),
        ("cleanup_timeout", SECONDS),
        ("handoff", FLAG_OR_NONE),
        ("hold_dependencies", FLAG),
        ("compress", FLAG_OR_NONE),
        ("headers", "is a mapping of names to values"),
    ],
)
def test_an_option_of_a_generator_s_response_is_named(option: str, takes: str) -> None:
    with pytest.raises(TypeError, match=f"^{option} {takes}, not str$"):
        EventSourceResponse([], **{option: "1"})  # type: ignore[arg-type]


def test_a_str_that_utf_8_cannot_carry_is_named() -> None:
    hub, text = Hub(), "\ud800"
    for field in ("event", "comment", "key"):
        with pytest.raises(InvalidEvent, match=f"^{field} has a lone surrogate, which UTF-8 cannot carry$"):
            hub.publish("t", 1, **{field: text})
    for refused, name in [
        (lambda: hub.publish(text, 1), "a topic's name"),
        (lambda: hub.publish(["t", text], 1), "a topic's name"),
        (lambda: hub.response("t", user=text), "user"),
        (lambda: hub.send(text, 1), "subscriber_id"),
        (lambda: hub.follow(text), "name"),
        (lambda: hub.end(text), "topic"),
        (lambda: Hub(name=text), "name"),
    ]:
        with pytest.raises(ValueError, match=f"^{name} has a lone surrogate, which UTF-8 cannot carry$"):
            refused()


@pytest.mark.parametrize(
    ("pair", "error"), [((1, "x"), TypeError), ((True, 2), TypeError), ([1], ValueError)]
)
def test_what_is_no_pair_is_shown(pair: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^reconnect is a pair of numbers of seconds, \(least, most\), not \("):
        Hub(reconnect=pair)


@pytest.mark.parametrize("value", [-1, 2**40])
def test_an_option_of_a_broker_beyond_its_range_is_named(value: int) -> None:
    bound = r"at (least|most) \d+"
    with pytest.raises(ValueError, match=f"^min_replicas must be {bound}, not {value}$"):
        RedisBroker("redis://localhost", min_replicas=value)
    with pytest.raises(ValueError, match=r"^heartbeat must be a number of seconds from 0 to .* not inf$"):
        Hub(heartbeat=10**400)
