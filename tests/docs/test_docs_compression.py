"""docs/compression.md: clients that accept gzip receive the same compressed events."""

from __future__ import annotations

from live import serve
from pages import Block, exercises


@exercises("compression.md", "Compression")
def test_each_event_is_compressed_once(block: Block) -> None:
    namespace = block.run()
    with (
        serve(namespace["app"]) as server,
        server.stream("/market") as one,
        server.stream("/market") as other,
    ):
        assert one.response.headers["content-encoding"] == "gzip"
        for value in range(100):
            server.http.post("/price/gold", params={"value": value})
            for events in (one, other):
                assert events.next().json() == {"metal": "gold", "price": value, "currency": "EUR"}
        stats = namespace["hub"].stats()
    assert stats["compressed_bytes"] < 0.6 * stats["uncompressed_bytes"]
