"""Every program of docs/recipes.md does what its text says."""

from __future__ import annotations

import asyncio
import queue
from contextlib import ExitStack
from typing import Any

import httpx
from live import Events, serve
from pages import Block, exercises
from waiting import PATIENCE, until


@exercises("recipes.md", "A price ticker")
def test_the_ticker_ticks_and_a_newcomer_sees_the_latest(block: Block) -> None:
    with serve(block.run()["app"]) as server:
        with server.stream("/events") as events:
            ids = [events.next() for _ in range(3)]
        assert {event.event for event in ids} == {"tick"}
        assert all(isinstance(event.json()["gold"], float) for event in ids)


def number(id: str) -> int:
    """The number of an event in its hub."""
    return int(id.rpartition("-")[2])


@exercises("recipes.md", "A dashboard for phones")
def test_a_phone_receives_the_newest_of_each_gauge(block: Block) -> None:
    names = block.run()
    with serve(names["app"]) as server:
        assert server.http.get("/gauges", params={"rate": 100}).status_code == 422
        with server.stream("/gauges", params={"rate": 5}) as events:
            seen = [events.next() for _ in range(2 * len(names["GAUGES"]))]
            assert {event.json()["gauge"] for event in seen} == set(names["GAUGES"])
            # Published within a moment: one write or a few take the newest of them.
            for value in range(500):
                for gauge in names["GAUGES"]:
                    last = names["hub"].publish("gauges", {"gauge": gauge, "value": value}, key=gauge)
            received = 1
            while number(events.next().id) < number(last.id):
                received += 1
    assert received < 500, "of 2,500 values"


@exercises("recipes.md", "A table of 1,000 rows")
def test_a_page_has_the_whole_table_and_a_page_that_comes_back_what_changed(block: Block) -> None:
    names = block.run()

    def change(row: int, pieces: int) -> None:
        server.http.put(f"/stock/{row}", json={"pieces": pieces}).raise_for_status()

    def read(events: Events, until: int) -> dict[int, int]:
        table: dict[int, int] = {}
        while True:
            event = events.next()
            value = event.json()
            table[value["row"]] = value["pieces"]
            if value["pieces"] == until:
                ids.append(event.id)
                return table

    ids: list[str] = []
    with serve(names["app"]) as server:
        assert server.http.put("/stock/1000", json={"pieces": 1}).status_code == 422
        for turn in range(3):
            for row in range(1000):
                names["hub"].publish("stock", {"row": row, "pieces": turn}, key=str(row))
        change(7, 1000)
        with server.stream("/stock") as events:
            assert read(events, 1000) == dict.fromkeys(range(1000), 2) | {7: 1000}
        for pieces in range(2000, 2010):
            change(8, pieces)
        with server.stream("/stock", headers={"Last-Event-ID": ids[0]}) as events:
            assert read(events, 2009) == {8: 2009}


@exercises("recipes.md", "Notifications to one user")
def test_a_notification_reaches_its_user_only_and_is_kept(block: Block) -> None:
    ann, bob = {"Cookie": "session=secret-of-ann"}, {"Cookie": "session=secret-of-bob"}
    with serve(block.run()["app"]) as server:

        def notify(user: str, title: str) -> Any:
            return server.http.post(f"/notify/{user}", json={"title": title}).json()

        assert server.http.get("/notifications").status_code == 403
        with server.stream("/notifications", headers=ann) as first:
            first.opened()
            with server.stream("/notifications", headers=bob) as other:
                other.opened()
                assert notify("ann", "for ann") == {"open": 1}
                assert notify("bob", "for bob") == {"open": 1}
                assert other.next().json() == {"title": "for bob", "link": None}
            event = first.next()
            assert (event.event, event.json()["title"]) == ("notification", "for ann")
            assert server.http.post("/sign-out", headers=ann).json() == {"closed": 1}
            assert first.rest() == []
        notify("ann", "missed")
        with server.stream("/notifications", headers=ann | {"Last-Event-ID": event.id}) as again:
            assert again.next().json()["title"] == "missed"


@exercises("recipes.md", "A live log")
def test_the_log_arrives_with_its_traceback(block: Block) -> None:
    names = block.run()
    try:
        with serve(names["app"]) as server:
            server.http.post("/orders/4")
            with server.stream("/log") as events:
                assert events.next().json() == {"level": "INFO", "text": "order 4"}
                server.http.post("/orders/0")
                events.next()
                failure = events.next().json()
        assert failure["level"] == "ERROR"
        assert failure["text"].startswith("order 0 failed\nTraceback (most recent call last):\n")
    finally:
        names["logger"].handlers.clear()


@exercises("recipes.md", "A chat with history")
def test_a_newcomer_to_the_chat_sees_its_history_and_all_see_who_is_here(block: Block) -> None:
    with serve(block.run()["app"]) as server:

        def say(name: str, text: str) -> None:
            server.http.post("/rooms/lobby", json={"name": name, "text": text}).raise_for_status()

        with server.stream("/rooms/lobby/events", params={"name": "ann"}) as ann:
            assert (event := ann.next()).event == "here"
            assert event.json() == ["ann"]
            say("ann", "anybody there?")
            assert ann.next().json() == {"name": "ann", "text": "anybody there?"}
            with server.stream("/rooms/lobby/events", params={"name": "bob"}) as bob:
                assert (event := bob.next()).event == "message"
                assert event.json()["text"] == "anybody there?"
                assert bob.next().json() == ["ann", "bob"]
                assert ann.next().json() == ["ann", "bob"]
            assert ann.next().json() == ["ann"]
        assert server.http.post("/rooms/Lobby!", json={"name": "x", "text": "x"}).status_code == 422


@exercises("recipes.md", "Topics that change while a page is open")
def test_a_page_joins_a_topic(block: Block) -> None:
    with serve(block.run()["app"]) as server, server.stream("/events") as events:
        hello = events.next()
        joined = server.http.put(f"/clients/{hello.json()['id']}/topics/sport")
        assert joined.json() == {"topics": ["everybody", "sport"]}
        for topic in ("weather", "sport", "everybody"):
            server.http.post(f"/topics/{topic}", json={"to": topic})
        assert [events.next().json()["to"], events.next().json()["to"]] == ["sport", "everybody"]
        assert server.http.put("/clients/c-0/topics/sport").status_code == 404


@exercises("recipes.md", "The progress of a job")
def test_progress_is_whole_also_for_a_page_that_comes_late(block: Block) -> None:
    whole = [("progress", {"done": done, "of": 5}) for done in range(1, 6)] + [("done", {"result": 42})]
    with serve(block.run()["app"]) as server:
        job = server.http.post("/jobs").json()["job"]
        for _ in range(2):
            with server.stream(f"/jobs/{job}/events") as events:
                assert [((event := events.next()).event, event.json()) for _ in whole] == whole


@exercises("recipes.md", "An AI answer, token by token")
def test_an_answer_comes_token_by_token_and_is_cancelled_when_nobody_reads(block: Block) -> None:
    names = block.run()
    with serve(names["app"]) as server:
        with server.stream("/answer", params={"prompt": "what is SSE?"}) as events:
            *tokens, done = events.rest()
        assert {event.event for event in tokens} == {"token"}
        assert "".join(event.json()["token"] for event in tokens) == "You asked: what is SSE? "
        assert done.event == "done"
        with server.stream("/answer", params={"prompt": "more " * 1000}) as events:
            events.next()
            assert names["asked"] == 1
        until(lambda: names["asked"] == 0)


@exercises("recipes.md", "A last word when the server stops")
def test_a_generator_has_a_last_word(block: Block) -> None:
    names = block.run()
    with ExitStack() as open_still:
        with serve(names["app"]) as server:
            # A connection of its own: the server's client is closed before the server stops.
            request = httpx.stream("GET", f"{server.url}/numbers", timeout=PATIENCE, trust_env=False)
            events = Events(open_still.enter_context(request))
            first = events.next()
        *numbers, last = [first, *events.rest()]
    assert [(event.event, event.data) for event in numbers] == [
        ("number", str(number)) for number in range(1, len(numbers) + 1)
    ]
    assert (last.event, last.data) == ("restart", str(len(numbers)))


@exercises("recipes.md", "Several sources, one stream")
def test_answers_come_as_they_are_there_and_are_not_waited_for_when_nobody_reads(block: Block) -> None:
    names = block.run()
    with serve(names["app"]) as server:
        with server.stream("/offers") as events:
            *offers, done = events.rest()
        assert {event.json()["shop"] for event in offers} == {"north", "south", "harbour"}
        assert {event.event for event in offers} == {"offer"}
        assert done.event == "done"

        asked, cancelled = queue.Queue[str](), queue.Queue[str]()

        async def never(shop: str, offers: Any) -> None:
            try:
                asked.put(shop)
                await asyncio.Event().wait()
            finally:
                cancelled.put(shop)

        names["ask"] = never
        with server.stream("/offers"):
            for _ in range(3):
                asked.get(timeout=PATIENCE)
            assert cancelled.empty()
        for _ in range(3):
            cancelled.get(timeout=PATIENCE)
