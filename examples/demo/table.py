"""A table of values by key, whose rows change faster than anybody reads."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Response
from sse_hub import Hub

from .market import Market

QUOTES = "quotes"
PACE = 0.05  # seconds between two changes of each row


async def change_rows(hub: Hub) -> None:
    """Publish each row's newest value again and again, while somebody watches."""
    market = Market()
    while True:
        if hub.count(QUOTES):
            tick = market.tick()
            for quote in tick.quotes:
                row = {"symbol": quote.symbol, "price": quote.price, "change": quote.change, "at": tick.at}
                hub.publish(QUOTES, row, key=quote.symbol)
        await asyncio.sleep(PACE)


def routes(hub: Hub, *, shown: bool) -> APIRouter:
    """The table's stream, at the rate and in the coding that a page asks for."""
    router = APIRouter()

    @router.get("/api/table")
    async def table(
        rate: Annotated[float | None, Query(ge=0.5, le=20)] = None, compress: bool = False
    ) -> Response:
        """The newest value of each row; at most `rate` writes a second."""
        if not shown:
            raise HTTPException(404, "Workers that share a broker have no table.")
        return hub.response(QUOTES, replay="all", rate=rate, compress=compress)

    @router.get("/api/table/bytes")
    async def size() -> dict[str, int]:
        """The bytes of all compressed streams so far, before and after."""
        stats = hub.stats()
        return {"before": stats["uncompressed_bytes"], "after": stats["compressed_bytes"]}

    return router
