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


@exercises("typed-channels.md", "A topic for each room")
def test_a_message_goes_to_its_room(block: Block) -> None:
    app = block.run()["app"]
    with serve(app) as server, server.stream("/rooms/7") as seven, server.stream("/rooms/8") as eight:
        for stream in (seven, eight):
            stream.opened()
        for id in (8, 7):
            server.http.post(f"/rooms/{id}", json={"author": "ann", "text": f"to {id}"}).raise_for_status()
        for stream, id in ((seven, 7), (eight, 8)):
            event = stream.next()
            assert (event.event, event.json()) == ("message", {"author": "ann", "text": f"to {id}"})
