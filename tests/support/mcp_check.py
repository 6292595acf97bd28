"""What the published MCP client sees of a server: `mcp_check.py URL`."""

from __future__ import annotations

import json
import sys
from typing import Any

import anyio
from mcp import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client


async def play(transport: Any) -> tuple[list[float], str]:
    progress: list[float] = []

    async def reported(number: float, total: float | None, message: str | None) -> None:
        progress.append(number)

    async with transport as streams, ClientSession(streams[0], streams[1]) as session:
        await session.initialize()
        result: Any = await session.call_tool("count", {"to": 50}, progress_callback=reported)
        return progress, result.content[0].text


async def main(url: str) -> None:
    with anyio.fail_after(60):
        for name, transport in (
            ("streamable", streamable_http_client(f"{url}/mcp")),
            ("sse", sse_client(f"{url}/sse")),
        ):
            progress, text = await play(transport)
            print(json.dumps({"name": name, "progress": progress, "text": text}), flush=True)


anyio.run(main, sys.argv[1])
