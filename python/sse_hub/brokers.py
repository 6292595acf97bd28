"""What connects the processes of a hub: Redis Streams.

``Hub("redis://localhost:6379")`` is enough; ``RedisBroker`` is for what an URL does not say.
"""

from sse_hub._core import RedisBroker

__all__ = ["RedisBroker"]
