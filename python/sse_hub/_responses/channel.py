"""A topic whose events have types: what is published is checked, and OpenAPI describes the stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Union, Unpack

from starlette.responses import Response

from sse_hub._arguments import check_text
from sse_hub._core import Publication, _check_event_name
from sse_hub._responses.channel_schema import describe
from sse_hub._responses.guarded_response import kind_of
from sse_hub._responses.hub_response import HubResponse
from sse_hub._responses.options import StreamOptions
from sse_hub._responses.streaming_hub import StreamingHub
from sse_hub.exceptions import InvalidEvent

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

__all__ = ["Channel", "named_events"]

T = TypeVar("T")


def named_events(events: Mapping[str, type[T]] | None, named: Mapping[str, type[T]]) -> dict[str, type[T]]:
    """The types of a channel's events, given by a mapping and by keyword."""
    if events is not None and not isinstance(events, Mapping):
        raise TypeError(f"events is a mapping of names to types or None, not {type(events).__name__}")
    return {**(events or {}), **named}


class EventStream(Response):
    """The media type of a channel, for FastAPI's ``response_class=``; no object of it is ever made."""

    media_type = "text/event-stream"

    def __init__(self, content: Any = None, status_code: int = 200, **_: Any) -> None:
        """Refuse what an endpoint returns that is no response, which FastAPI would send as a whole body."""
        raise TypeError(
            "an endpoint with a channel's response_class returns the channel's response(),"
            f" not {kind_of(content)}"
        )


class Channel(Generic[T]):
    """A topic whose events have types, as ``Hub.channel`` returns it. May be used from any thread."""

    response_class = EventStream
    """For ``response_class=`` of FastAPI's route: the media type of the stream."""

    def __init__(self, hub: StreamingHub, topic: str, events: Mapping[str, type[T]]) -> None:
        try:
            from pydantic import TypeAdapter
        except ImportError as error:
            raise ImportError("Hub.channel needs pydantic: pip install pydantic") from error
        if not isinstance(topic, str):
            raise TypeError(f"topic is a str, not {type(topic).__name__}")
        if not events:
            raise TypeError(f"channel {topic!r} needs at least one event: channel({topic!r}, tick=Tick)")
        HubResponse(hub, topic)  # raises for a name that breaks a rule
        for name in events:
            _check_name(topic, name)
        self.hub = hub
        self.topic = topic
        self.events: dict[str, type[T]] = dict(events)
        self._adapters: dict[str, TypeAdapter[T]] = {
            name: TypeAdapter(kind) for name, kind in self.events.items()
        }

    def publish(
        self,
        value: T,
        *,
        event: str | None = None,
        retry: int | None = None,
        comment: str | None = None,
        key: str | None = None,
    ) -> Publication:
        """Check a value, and publish it as the event whose type it has.

        Args:
            value: an instance of one of the channel's types. With ``event``, also what pydantic's strict mode
                accepts for that type, such as a dict for a model. Fields that a subclass adds to a model are
                not sent.
            event: the event's name, if several events have the same type.
            retry: as in ``Hub.publish``.
            comment: as in ``Hub.publish``.
            key: as in ``Hub.publish``: of each key, only the newest value waits and is kept.

        Raises:
            TypeError: no event of the channel has the value's type, or several have.
            InvalidEvent: the value breaks a rule of its type, or the channel has no event of this name.

        The other errors are those of ``Hub.publish``. When it raises, nothing was published.
        """
        name, value = self._check(value, event)
        return self.hub.publish(
            self.topic, raw_data=self._encode(name, value), event=name, retry=retry, comment=comment, key=key
        )

    def _at(self, topic: str) -> Channel[T]:
        """A channel of another topic with the same events."""
        HubResponse(self.hub, topic)  # raises for a name that breaks a rule
        other: Channel[T] = object.__new__(Channel)
        other.__dict__.update(self.__dict__, topic=topic)
        return other

    def response(self, **options: Unpack[StreamOptions]) -> HubResponse:
        """The response that streams the channel to its client, like ``Hub.response``.

        The options are those of ``StreamOptions``.
        """
        return HubResponse(self.hub, self.topic, **options)

    @property
    def responses(self) -> dict[int | str, dict[str, Any]]:
        """For ``responses=`` of FastAPI's route: what OpenAPI says of the stream.

        ``itemSchema`` describes an event: a union over the events' names, and the JSON in ``data`` of each.
        ``schema`` is the union of the types of ``data``, because most generators of clients read only this.
        """
        union: Any = Union[tuple(self.events.values())]  # noqa: UP007 - the types are known only here
        return describe(self._adapters, union)

    def _check(self, value: Any, event: str | None) -> tuple[str, Any]:
        from pydantic import ValidationError

        if event is None:
            return self._name_of(value), value
        check_text("event", event)
        if (adapter := self._adapters.get(event)) is None:
            raise InvalidEvent(f"channel {self.topic!r} has no event {event!r}, only {_listed(self.events)}")
        try:
            return event, adapter.validate_python(value, strict=True)
        except ValidationError as error:
            raise InvalidEvent(self._broken(event, error)) from error

    def _name_of(self, value: Any) -> str:
        """The name of the only event whose type the value has: its own class, or else the nearest base."""
        for kind in type(value).__mro__:
            if found := [name for name, known in self.events.items() if known is kind]:
                break
        else:
            found = [name for name in self.events if self._accepts(name, value)]
        if len(found) == 1:
            return found[0]
        what = f"channel {self.topic!r} has {'no event' if not found else 'several events'}"
        raise TypeError(
            f"{what} for a {type(value).__name__}: {_listed(found or self.events)}; name one with event="
        )

    def _accepts(self, name: str, value: Any) -> bool:
        """Whether a type that is no class, such as ``list[int]``, accepts the value."""
        from pydantic import ValidationError

        if isinstance(self.events[name], type) and not hasattr(self.events[name], "__required_keys__"):
            return False
        try:
            self._adapters[name].validate_python(value, strict=True)
        except ValidationError:
            return False
        return True

    def _encode(self, name: str, value: Any) -> bytes:
        """The JSON of a value. It shows fields whose type is wrong since the value was made."""
        from pydantic_core import PydanticSerializationError

        try:
            return self._adapters[name].dump_json(value, by_alias=True, warnings="error")
        except PydanticSerializationError as error:
            raise InvalidEvent(f"channel {self.topic!r}, event {name!r}: {error}") from error

    def _broken(self, name: str, error: ValidationError) -> str:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'the value'}: {fault['msg']}, not {fault['input']!r}"
            for fault in error.errors()
        ]
        return f"channel {self.topic!r}, event {name!r}: {'; '.join(faults)}"

    def __repr__(self) -> str:
        return f"<Channel {self.topic!r}: {_listed(self.events)}>"


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names))


def _check_name(topic: str, name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"channel {topic!r}: the name of an event is a str, not {type(name).__name__}")
    try:
        _check_event_name(name)
    except InvalidEvent as error:
        raise ValueError(f"channel {topic!r}: the name of an event breaks a rule: {error}") from None
