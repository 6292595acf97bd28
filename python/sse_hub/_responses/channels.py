"""A family of topics whose events have the same types, such as a topic for each room."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from sse_hub._responses.channel import Channel, EventStream
from sse_hub._responses.streaming_hub import StreamingHub

__all__ = ["Channels"]

T = TypeVar("T")

_PART = re.compile(r"\{([^{}]*)\}")


class Channels(Generic[T]):
    """A family of channels, as ``Hub.channels`` returns it. May be used from any thread."""

    response_class = EventStream
    """For ``response_class=`` of FastAPI's route: the media type of the streams."""

    def __init__(self, hub: StreamingHub, pattern: str, events: Mapping[str, type[T]]) -> None:
        if not isinstance(pattern, str):
            raise TypeError(f"pattern is a str, not {type(pattern).__name__}")
        self.pattern = pattern
        # Text, name, text, name, …, text.
        self._texts = _PART.split(pattern)[0::2]
        self._names = _PART.split(pattern)[1::2]
        _check_pattern(pattern, self._texts, self._names)
        self._any = Channel(hub, pattern, events)

    def __call__(self, /, **names: str | int) -> Channel[T]:
        """The channel of one topic: ``rooms(id="7")`` of ``"room:{id}"`` is the channel ``"room:7"``.

        Args:
            names: a value for each name in the pattern: a str that is not empty, or an int. To keep topics
                apart, a value must not contain the text between its place and the next one, nor end as this
                begins.

        Raises:
            TypeError: a name is missing or unknown, or a value is of another type.
            ValueError: a value breaks its rule, or the topic's name one of topics.
        """
        if names.keys() != set(self._names):
            wanted = ", ".join(f"{name}=…" for name in self._names)
            raise TypeError(f"channels {self.pattern!r} take {wanted}, not {', '.join(names) or 'nothing'}")
        topic = self._texts[0]
        for at, name in enumerate(self._names):
            text = self._texts[at + 1]
            topic += self._value(name, names[name], text if at + 1 < len(self._names) else "") + text
        return self._any._at(topic)

    @property
    def responses(self) -> dict[int | str, dict[str, Any]]:
        """For ``responses=`` of FastAPI's route, as those of ``Channel``."""
        return self._any.responses

    def _value(self, name: str, value: object, behind: str) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise TypeError(
                f"channels {self.pattern!r}: {name} is a str or an int, not {type(value).__name__}"
            )
        text = str(value)
        if not text:
            raise ValueError(f"channels {self.pattern!r}: {name} must not be empty")
        if behind and (text + behind).index(behind) != len(text):
            raise ValueError(
                f"channels {self.pattern!r}: {name}={text!r} contains {behind!r}, or ends as it begins:"
                " other values could give the same topic"
            )
        return text

    def __repr__(self) -> str:
        return f"<Channels {self.pattern!r}: {', '.join(map(repr, self._any.events))}>"


def _check_pattern(pattern: str, texts: list[str], names: list[str]) -> None:
    def refuse(rule: str) -> ValueError:
        return ValueError(f"channels {pattern!r}: {rule}")

    if any("{" in text or "}" in text for text in texts):
        raise refuse("a brace belongs to no name; write a name as {id}")
    if not names:
        raise refuse("the pattern has no {name}; Hub.channel is for one topic")
    for name in names:
        if not name.isidentifier():
            raise refuse(f"{{{name}}} is not a name; write one as {{id}}")
        if names.count(name) > 1:
            raise refuse(f"{{{name}}} is there twice")
    if any(not text for text in texts[1:-1]):
        raise refuse("between two names there must be text, to keep topics apart")
