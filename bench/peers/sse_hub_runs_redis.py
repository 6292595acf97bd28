"""The app of `sse_hub_runs`, with its hub over Redis."""

from sse_hub import Hub

from bench.peers import sse_hub_runs
from bench.peers.redis_cpu import URL

sse_hub_runs.hub = Hub(URL)
app = sse_hub_runs.app
