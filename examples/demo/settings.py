"""What the demo reads from its environment.

PORT                 port to listen on (default 8000; when it is taken, a free one is used)
HOST                 address to listen on (default 127.0.0.1)
SSE_HUB_HANDOFF      0: streams stay with uvicorn; 1 (default): they are handed off to a thread in Rust
SSE_HUB_HEARTBEAT    seconds of silence after which a stream gets a heartbeat (default 5)
SSE_HUB_RECONNECT    "min,max" seconds a browser waits before it reconnects (default "1,3")
SSE_HUB_TICK         seconds between two price ticks (default 0.5)
SSE_HUB_TOKEN        seconds between two tokens of an answer, about (default 0.045)
SSE_HUB_TICK_HISTORY how many ticks are kept for those who join or come back (default 240)
SSE_HUB_BROKER       file:events or redis://… makes all workers one hub (default: none, so one worker)
SSE_HUB_HISTORY      with a broker: how many events of all kinds are kept (default 5000)
SSE_HUB_CROWD        streams that the card of costs opens (default 1000 on a loopback address, else 0: off)
SSE_HUB_MEASURED     seconds for which that card measures each kind of stream (default 6)
SSE_HUB_METRICS      a directory through which /metrics of any worker shows all (default: none, so one worker)
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "::1", "localhost")
SHORTEST, LONGEST = 0.001, 3600  # seconds
MOST = 5000  # streams that the card of costs opens, whatever is asked for


@dataclass(frozen=True, slots=True)
class Settings:
    """The demo's settings; durations are in seconds."""

    host: str
    port: int
    heartbeat: float
    reconnect: tuple[float, float]
    tick: float
    tick_history: int
    token: float
    broker: str | None
    history: int
    crowd: int
    crowd_anywhere: bool
    measured: float
    metrics: str | None

    @property
    def shown_broker(self) -> str | None:
        """The broker's address without user and password, for everybody to see."""
        if self.broker is None:
            return None
        url = urlsplit(self.broker)
        if url.scheme == "file":
            return self.broker
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the variables above. One that is empty is not set.

        Raises:
            ValueError: a variable is not what it has to be; the text names it.
        """
        env = {name: value for name, value in os.environ.items() if value}
        host = env.get("HOST", "127.0.0.1")
        # One worker measures itself; with a broker there may be several.
        crowd = "0" if env.get("SSE_HUB_BROKER") or host not in LOOPBACK else "1000"

        def whole(name: str, default: str, least: int, most: int) -> int:
            value = env.get(name, default)
            return int(number(value, int, least, most, f"{name} is a whole number from {least} to {most}"))

        def seconds(name: str, default: str) -> float:
            rule = f"{name} is a number of seconds from {SHORTEST} to {LONGEST}"
            return number(env.get(name, default), float, SHORTEST, LONGEST, rule)

        return cls(
            host=host,
            port=whole("PORT", "8000", 0, 65535),
            heartbeat=seconds("SSE_HUB_HEARTBEAT", "5"),
            reconnect=shortest_and_longest("SSE_HUB_RECONNECT", env.get("SSE_HUB_RECONNECT", "1,3")),
            tick=seconds("SSE_HUB_TICK", "0.5"),
            tick_history=whole("SSE_HUB_TICK_HISTORY", "240", 0, 1_000_000),
            token=seconds("SSE_HUB_TOKEN", "0.045"),
            broker=env.get("SSE_HUB_BROKER"),
            history=whole("SSE_HUB_HISTORY", "5000", 1, 1_000_000),
            crowd=min(whole("SSE_HUB_CROWD", crowd, 0, 1_000_000), MOST),
            crowd_anywhere="SSE_HUB_CROWD" in env,
            measured=seconds("SSE_HUB_MEASURED", "6"),
            metrics=env.get("SSE_HUB_METRICS"),
        )


def number(value: str, kind: type[float], least: float, most: float, rule: str) -> float:
    """The number that a variable's value is; ValueError with its rule if it breaks that."""
    with suppress(ValueError):
        if least <= (read := kind(value)) <= most:
            return read
    raise ValueError(f"{rule}, not {value!r}")


def shortest_and_longest(name: str, value: str) -> tuple[float, float]:
    """Two numbers of seconds; ValueError if they are none."""
    rule = f"{name} is two numbers of seconds from 0 to {LONGEST}, the smaller first, with a comma between"
    shortest, _, longest = value.partition(",")
    with suppress(ValueError):
        least = number(shortest, float, 0, LONGEST, rule)
        return least, number(longest, float, least, LONGEST, rule)
    raise ValueError(f"{rule}, not {value!r}")
