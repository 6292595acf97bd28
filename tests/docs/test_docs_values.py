"""docs/values.md: the table that a newcomer receives."""

from __future__ import annotations

from live import serve
from pages import Block, exercises


@exercises("values.md", "Values rather than events")
def test_a_newcomer_receives_the_table(block: Block) -> None:
    with serve(block.run()["app"]) as server:
        for metal, value in [("gold", 1), ("tin", 2), ("gold", 3)]:
            server.http.post(f"/price/{metal}", params={"value": value})
        with server.stream("/market") as events:
            table = [events.next().json() for _ in range(2)]
    assert table == [{"metal": "tin", "price": 2}, {"metal": "gold", "price": 3}]
