"""The programs of docs/access.md do what its text says."""

from __future__ import annotations

from live import Server, serve
from pages import Block, exercises
from waiting import until

ANN, BOB = {"Cookie": "session=secret-of-ann"}, {"Cookie": "session=secret-of-bob"}


def status(server: Server, path: str, **request: object) -> int:
    """The status of a request that gets no stream."""
    return server.http.get(path, **request).status_code  # type: ignore[arg-type]


@exercises("access.md", "A token in a cookie")
def test_a_stream_lasts_as_long_as_its_token(block: Block) -> None:
    names = block.run()
    hub = names["hub"]
    reasons: list[str] = []
    hub.on_disconnect(lambda subscriber, reason: reasons.append(reason))
    with serve(names["app"]) as server:
        assert status(server, "/events") == 401
        names["LIFETIME"] = 4.0  # the token's end is in whole seconds, so the requests have three at least
        server.http.post("/sign-in/ann").raise_for_status()
        with server.stream("/events") as events:
            events.opened()
            hub.publish("user:ann", "hello")
            event = events.next()
            assert event.json() == "hello"
            assert events.rest() == []
        until(lambda: reasons == ["expired"])
        hub.publish("user:ann", "missed")
        names["LIFETIME"] = 60.0
        server.http.post("/sign-in/ann").raise_for_status()
        with server.stream("/events", headers={"Last-Event-ID": event.id}) as events:
            assert events.next().json() == "missed"
        names["LIFETIME"] = -1.0
        server.http.post("/sign-in/ann").raise_for_status()
        assert status(server, "/events", headers={"Last-Event-ID": event.id}) == 401


@exercises("access.md", "A ticket in the query")
def test_a_ticket_opens_one_stream(block: Block) -> None:
    names = block.run()
    hub, tickets = names["hub"], names["TICKETS"]
    with serve(names["app"]) as server:

        def issue(token: str) -> str:
            headers = {"Authorization": f"Bearer {token}"}
            answer = server.http.post("/tickets", headers=headers).raise_for_status()
            return str(answer.json()["ticket"])

        assert server.http.post("/tickets").status_code in (401, 403)
        assert server.http.post("/tickets", headers={"Authorization": "Bearer x"}).status_code == 401
        ticket = issue("token-of-ann")
        with server.stream("/events", params={"ticket": ticket}) as events:
            events.opened()
            hub.publish("user:ann", "hello")
            event = events.next()
            assert event.json() == "hello"
            assert status(server, "/events", params={"ticket": ticket}) == 401
        hub.publish("user:ann", "missed")
        query = {"ticket": issue("token-of-ann"), "last_event_id": event.id}
        with server.stream("/events", params=query) as events:
            assert events.next().json() == "missed"
        names["VALID"] = -1.0
        ticket = issue("token-of-bob")
        assert status(server, "/events", params={"ticket": ticket}) == 401
        issue("token-of-bob")
        issue("token-of-bob")
        assert len(tickets) == 1, "tickets that nobody uses do not pile up"


@exercises("access.md", "Rights that change")
def test_a_right_that_is_taken_away_takes_its_topic_away(block: Block) -> None:
    names = block.run()
    hub = names["hub"]
    with serve(names["app"]) as server:
        assert status(server, "/events") == 401
        with server.stream("/events", headers=ANN) as ann, server.stream("/events", headers=BOB) as bob:
            ann.opened()
            bob.opened()
            assert (hub.count("sport"), hub.count("board")) == (2, 1)
            server.http.delete("/topics/sport/members/ann")
            until(lambda: hub.count("sport") == 1)
            hub.publish("sport", "a goal")
            hub.publish("board", "a meeting")
            assert (ann.next().json(), bob.next().json()) == ("a meeting", "a goal")
            server.http.delete("/topics/sport/members/bob")
            assert bob.rest() == []
            assert status(server, "/events", headers=BOB) == 403
