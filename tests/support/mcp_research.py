"""The agent of docs/runs.md with the tool of a real MCP server, by the published client.

Its program comes by stdin, and finds a ``session`` of the client.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from mcp import Client
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from sse_hub.testing import connect

server = MCPServer("research")
cancelled = asyncio.Event()


@server.tool()
async def research(question: str, ctx: Context) -> str:
    """Report each step; some questions have no answer."""
    for done, step in enumerate(("search", "read", "write"), 1):
        await ctx.report_progress(done, 3, step)
    if question == "wasps":
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
    return f"All about {question}."


async def main() -> None:
    names: dict[str, Any] = {"__name__": "main"}
    exec(sys.stdin.read(), names)
    async with names["hub"], Client(server) as session:
        names["session"] = session
        for id in ("bees", "wasps"):
            await names["start"](id, id)
            async with connect(await names["watch"](id), "/", control=True) as client:
                async for event in client:
                    if event.event != "stream-open":
                        print(json.dumps([event.event, event.json()]), flush=True)
                    if id == "wasps" and event.event == "progress" and event.json()["progress"] == 3:
                        await names["stop"](id)
        async with asyncio.timeout(60):
            await cancelled.wait()


asyncio.run(main())
