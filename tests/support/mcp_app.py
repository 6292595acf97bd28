"""An MCP server by the published package, over streamable HTTP and SSE, with events that can be resumed."""

from __future__ import annotations

import contextlib
from typing import Any

import anyio
import anyio.lowlevel
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.streamable_http import EventMessage, EventStore
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route


class Events(EventStore):
    """The events of all streams, in memory."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, Any]] = []

    async def store_event(self, stream_id: str, message: Any) -> str:
        self.kept.append((stream_id, message))
        return str(len(self.kept))

    async def replay_events_after(self, last_event_id: str, send_callback: Any) -> str | None:
        after = int(last_event_id)
        stream = self.kept[after - 1][0]
        for number, (other, message) in enumerate(self.kept, 1):
            if number > after and other == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


mcp = MCPServer("count")


@mcp.tool()
async def count(to: int, ctx: Context) -> str:
    """Count, and report each number."""
    for number in range(1, to + 1):
        await ctx.report_progress(number, to)
        await anyio.lowlevel.checkpoint()
    return f"counted to {to}"


async def classes(request: Request) -> JSONResponse:
    import mcp.server.sse
    import mcp.server.streamable_http
    import sse_starlette

    modules = (sse_starlette, mcp.server.sse, mcp.server.streamable_http)
    return JSONResponse([module.EventSourceResponse.__module__ for module in modules])


http = mcp.streamable_http_app(event_store=Events(), retry_interval=100)
sse = mcp.sse_app(sse_path="/sse", message_path="/messages/")


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> Any:
    async with mcp.session_manager.run():
        print("lifespan started", flush=True)
        yield


app = Starlette(
    routes=[Route("/classes", classes), *http.routes, Mount("/", sse)],
    lifespan=lifespan,
)
