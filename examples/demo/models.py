"""What pages send and what they get. Lengths are limited: everything here is kept and fanned out."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=24)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=280)]
# A subscriber's id, as the page got it in its `hello` event.
StreamId = Annotated[str, StringConstraints(min_length=1, max_length=128)]


def now() -> datetime:
    """The current time, with its zone, so that a browser can show it in its own."""
    return datetime.now(UTC)


class Level(StrEnum):
    """How loud a notice is."""

    info = "info"
    success = "success"
    warning = "warning"


class Question(BaseModel):
    """What the form of the answer posts."""

    question: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class NewNotice(BaseModel):
    """What the form posts; `Notice` is what everybody gets."""

    author: Name
    text: Text
    level: Level = Level.info


class Notice(NewNotice):
    """A notice for everybody."""

    at: datetime = Field(default_factory=now)


class NewChatMessage(BaseModel):
    """What the chat's form posts."""

    author: Name
    text: Text


class ChatMessage(NewChatMessage):
    """A line in the chat room."""

    at: datetime = Field(default_factory=now)


class NewWhisper(BaseModel):
    """A message to one stream only."""

    to: StreamId
    author: Name
    text: Text


class Whisper(BaseModel):
    """What the chosen one gets."""

    author: str
    text: str
    at: datetime = Field(default_factory=now)


class Cut(BaseModel):
    """Which stream to end."""

    id: StreamId


class Person(BaseModel):
    """One open page, and since when its stream is."""

    id: str
    client: str
    since: datetime
    name: str
    # True: came back and missed nothing. False: came back too late. None: is new here.
    recovered: bool | None


class Change(BaseModel):
    """What made the list change."""

    what: Literal["joined", "came back", "left"]
    name: str
    why: str | None = None


class Presence(BaseModel):
    """Who is online at one worker. A page puts the lists of all workers together."""

    worker: str
    at: datetime = Field(default_factory=now)
    # Seconds within which the next one comes, while the worker lives. None: it is the only one.
    good_for: float | None
    count: int
    people: list[Person]
    change: Change | None


class Hello(BaseModel):
    """What a page is told of its own stream."""

    id: str
    recovered: bool | None
    path: str
    worker: str
    broker: str | None


class Delivered(BaseModel):
    """The answer to a POST: the event's id and how many streams it goes to."""

    id: str | None
    online: int
