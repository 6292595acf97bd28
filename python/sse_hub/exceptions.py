"""The errors of a hub, as a tree.

::

    HubError
    ├── HubClosed               the hub is closing
    ├── HubFull                 publishers ran ahead of delivery, or there are max_subscribers
    │   └── UserFull            the user has max_per_user streams
    ├── TooManyTopics           more than max_topics in one stream (also a ValueError)
    ├── NotAuthorized           the client may not listen, or its authorization has expired
    ├── TopicEnded              the topic has ended
    ├── RunTooLarge             a run yielded more than its max_bytes
    ├── GapError                a stream with control=False misses events
    ├── InvalidEvent            a field breaks a rule (also a ValueError)
    │   └── EventTooLarge       larger than max_event_bytes
    └── BrokerError             the broker cannot be reached, or refused
        ├── LeaseLost           the process was paused, and another one may continue its work
        └── OutcomeUnknown      the broker's answer was lost: published, or not

Errors are raised at the call that made them, never while events are delivered.
"""

__all__ = [
    "BrokerError",
    "EventTooLarge",
    "GapError",
    "HubClosed",
    "HubError",
    "HubFull",
    "InvalidEvent",
    "LeaseLost",
    "NotAuthorized",
    "OutcomeUnknown",
    "RunTooLarge",
    "TooManyTopics",
    "TopicEnded",
    "UserFull",
]


class HubError(Exception):
    """Base of all errors of a hub."""


class HubClosed(HubError):
    """The hub is closing, and nothing is published or subscribed. The next use after that starts it anew."""


class HubFull(HubError):
    """There is no room.

    From ``publish``: the publishers have run ``backlog_bytes`` ahead of delivery, and nothing was published.
    From ``subscribe``: the hub has ``max_subscribers``.
    """


class NotAuthorized(HubError):
    """The client may not listen to a topic, by the hub's ``authorize``, or its ``expires`` is in the past.

    Nothing was subscribed or joined.
    """


class UserFull(HubFull):
    """The user has ``max_per_user`` streams. Nothing was subscribed."""


class TooManyTopics(HubError, ValueError):
    """A stream would have more than ``max_topics`` topics. Nothing was subscribed or joined."""


class TopicEnded(HubError):
    """The topic has ended, and its name is not free yet. Nothing was published."""


class RunTooLarge(HubError):
    """A run failed because it yielded more than its ``max_bytes``. Passed to ``error=``, and logged."""


class GapError(HubError):
    """A client missed events that cannot be replayed, and its stream has ``control=False``.

    Raised by the iteration of such a subscription; a response breaks its body off instead.
    """


class InvalidEvent(HubError, ValueError):
    """A field of an event breaks a rule; the message names the value and the rule. Nothing was published."""


class EventTooLarge(InvalidEvent):
    """The encoded event is larger than ``max_event_bytes``. Nothing was published."""


class BrokerError(HubError):
    """The broker cannot be reached, or it refused. Nothing was published."""


class LeaseLost(BrokerError):
    """The process no longer holds its run's lease: it was paused for longer than that lasts, or cut off.

    The broker publishes nothing for it, because the run has been declared lost, or will be.
    """


class OutcomeUnknown(BrokerError):
    """The broker's answer was lost: the event may have been published, or not. It is not sent again."""
