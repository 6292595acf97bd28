"""The program of docs/typed-channels.md checks what it publishes."""

from __future__ import annotations

from live import serve
from pages import Block, exercises


@exercises("typed-channels.md", "Typed channels")
def test_a_tick_that_is_posted_is_an_event_of_its_name(block: Block) -> None:
    names = block.run()
    with serve(names["app"]) as server, server.stream("/prices") as events:
        events.opened()
        assert server.http.post("/ticks", json={"symbol": "gold", "price": "none"}).status_code == 422
        server.http.post("/ticks", json={"symbol": "gold", "price": 2411.5}).raise_for_status()
        event = events.next()
        assert (event.event, event.json()) == ("tick", {"symbol": "gold", "price": 2411.5})
        names["prices"].publish(names["Halt"](symbol="gold"))
        assert events.next().event == "halt"
