"""How a hub connects to its Redis: addresses, passwords, TLS, databases, replicas, and what can go wrong."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis_server import Proxy, RedisServer, certificates, stream_key
from redis_workers import Pair, listening, takes
from servers import HOST, ROOT
from sse_hub import BrokerError, Hub, OutcomeUnknown, RedisBroker
from waiting import PATIENCE, promised, until

PASSWORD = "p@ss:w/rd%?#"  # every character that means something in a URL
ENCODED = "p%40ss%3Aw%2Frd%25%3F%23"


def works(broker: Any, **options: Any) -> None:
    """A hub publishes through it, reads from it and knows its presence."""
    with Hub(broker, **options) as hub:
        assert hub.publish("t", 1).result(PATIENCE)
        until(lambda: hub.stats()["broker"] == "connected")


def refused(broker: Any, *words: str) -> str:
    """A publication fails, and says why; no part of the password with it."""
    with Hub(broker) as hub:
        published = hub.publish("t", 1)
        with pytest.raises(BrokerError) as raised:
            published.result(PATIENCE)
        assert not isinstance(raised.value, OutcomeUnknown), "nothing was published for sure"
        assert hub.stats()["broker"] == "disconnected"
    said = str(raised.value)
    assert any(word.lower() in said.lower() for word in words), said
    assert PASSWORD not in said
    assert ENCODED not in said
    return said


def test_a_stream_that_does_not_answer_is_the_reason(redis: RedisServer, proxy: Proxy) -> None:
    proxy.silent = 1  # the connection that follows the stream, which is made first
    with Hub(RedisBroker(proxy.url, timeout=0.5, connect_timeout=PATIENCE)) as hub:
        refused = r"its stream cannot be followed: no answer for \d+\.\d seconds; nothing was published"
        with pytest.raises(BrokerError, match=refused):
            hub.publish("t", 1).result(PATIENCE)


def test_a_password() -> None:
    with RedisServer("--requirepass", PASSWORD, password=PASSWORD) as redis:
        works(f"redis://:{ENCODED}@{HOST}:{redis.port}")
        refused(RedisBroker(f"redis://:wrong@{HOST}:{redis.port}", timeout=1.0), "WRONGPASS", "password")
        refused(RedisBroker(redis.url, timeout=1.0), "NOAUTH", "authentic", "password")


def test_a_user_who_may_touch_nothing_but_the_hubs_keys(pair: Pair) -> None:
    rights = ["~{sse-hub:*", "&{sse-hub:*", "+@all", "-@dangerous", "-@admin"]
    with RedisServer("--user", "app", "on", f">{PASSWORD}", *rights) as redis:
        works(f"redis://app:{ENCODED}@{HOST}:{redis.port}", name=pair.name)
        refused(RedisBroker(f"redis://app:wrong@{HOST}:{redis.port}", timeout=1.0), "WRONGPASS", "password")
        a, b = pair.hubs(f"redis://app:{ENCODED}@{HOST}:{redis.port}")
        with listening(a.listen(), b.listen()) as clients:
            a.publish("through")
            takes(clients, ["through"])
            until(lambda: b.presence()["count"] == 2)


@pytest.mark.parametrize("database", [0, 3])
async def test_the_rights_that_the_documentation_names_are_enough(database: int) -> None:
    said = re.search(
        r"ACL user needs\s+`([^`]*)`.*; for a database other than 0 also\s+`([^`]*)`",
        (ROOT / "docs" / "scaling-out.md").read_text(),
        re.DOTALL,
    )
    assert said
    rights = ["~{sse-hub:*", "-@all", *said[1].split(), *(said[2].split() if database else [])]
    with RedisServer("--user", "app", "on", f">{PASSWORD}", *rights) as redis:
        url = f"redis://app:{ENCODED}@{HOST}:{redis.port}/{database}"
        async with Hub(url, history_age=60, grace=0.0) as hub:
            async with hub.subscribe("t") as client:
                await anext(client)
                assert await hub.publish("t", 1)
                async with asyncio.timeout(10):
                    while b"data: 1" not in await anext(client):
                        pass
                assert (await hub.presence("t")).ids == (client.id,)
            assert (await hub.presence("t")).count == 0


def test_no_error_says_that_nothing_was_published_when_something_was() -> None:
    rights = ["~{sse-hub:*", "+@all", "-xlen"]  # the script asks for it after it has written
    with RedisServer("--user", "app", "on", f">{PASSWORD}", *rights) as redis:
        with Hub(f"redis://app:{ENCODED}@{HOST}:{redis.port}") as hub:
            with pytest.raises(OutcomeUnknown, match="script"):
                hub.publish("t", 1).result(10)
            until(lambda: hub.stats()["unsent"] == 0)
        assert len(redis.ids()) == 1


def test_a_wrong_password_is_logged_and_not_tried_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    with (
        RedisServer("--requirepass", PASSWORD, password=PASSWORD) as redis,
        Proxy(redis.port) as proxy,
        caplog.at_level(logging.INFO, "sse_hub"),
    ):
        refused(RedisBroker(f"redis://:wrong{ENCODED}@{HOST}:{proxy.port}", timeout=1.5), "password")
        assert proxy.accepted < 20
        messages = [record.getMessage() for record in caplog.records]
        assert any("password" in message.lower() for message in messages)
        assert not any(PASSWORD in message or ENCODED in message for message in messages)


def test_a_password_shows_nowhere() -> None:
    broker = RedisBroker(f"redis://app:{ENCODED}@{HOST}:1/")
    for shown in (repr(broker), str(broker), repr(Hub(broker))):
        assert PASSWORD not in shown
        assert ENCODED not in shown


def test_a_database_number() -> None:
    with RedisServer(db=3) as redis:
        works(f"{redis.url}/3")
        assert redis.admin.exists(stream_key())
        works(f"{redis.url}/4")
        assert len(redis.ids()) == 1
        refused(RedisBroker(f"{redis.url}/99", timeout=1.0), "DB index", "database")


@pytest.mark.parametrize("protocol", ["resp2", "resp3", "2", "3"])
def test_a_url_may_name_a_protocol(redis: RedisServer, protocol: str) -> None:
    """As those for other clients do."""
    works(f"{redis.url}/?protocol={protocol}")


def test_hubs_of_other_names_and_prefixes_do_not_meet(redis: RedisServer, pair: Pair) -> None:
    a = pair.workers[0].hub(redis.url, "one")
    b = pair.workers[1].hub(redis.url, "two")
    elsewhere = pair.workers[1].hub(redis.url, "one", broker={"prefix": "other"})
    with listening(a.listen(), b.listen(), elsewhere.listen()) as clients:
        a.publish("for one")
        b.publish("for two")
        elsewhere.publish("for the other one")
        for client, data in zip(clients, ["for one", "for two", "for the other one"], strict=True):
            takes([client], [data])
        for client in clients:
            client.heartbeat()
    assert {stream_key("one"), stream_key("two"), stream_key("one", "other")} <= {*redis.admin.keys()}


@contextmanager
def tls_server(directory: Path) -> Iterator[RedisServer]:
    with RedisServer(tls=certificates(directory)) as redis:
        yield redis


def test_tls(tmp_path: Path, pair: Pair) -> None:
    with tls_server(tmp_path) as redis:
        ca = str(tmp_path / "ca.pem")
        works(RedisBroker(redis.url, ca_certs=ca))
        works(RedisBroker(redis.url.replace(HOST, "localhost"), ca_certs=ca))
        a, b = pair.hubs(redis.url, broker={"ca_certs": ca})
        with listening(a.listen(), b.listen()) as clients:
            b.publish("through TLS")
            takes(clients, ["through TLS"])


def test_tls_with_an_untrusted_certificate(tmp_path: Path) -> None:
    with tls_server(tmp_path) as redis:
        refused(RedisBroker(redis.url, timeout=1.0), "certificate", "issuer")


def test_tls_on_a_port_that_speaks_none(redis: RedisServer) -> None:
    refused(RedisBroker(redis.url.replace("redis:", "rediss:"), timeout=1.0), "TLS", "connect", "handshake")


def test_no_tls_on_a_port_that_does(tmp_path: Path) -> None:
    with tls_server(tmp_path) as redis:
        refused(RedisBroker(redis.url.replace("rediss:", "redis:"), timeout=1.0), "connect", "closed", "lost")


def test_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises((ValueError, OSError), match="ca"):
        Hub(RedisBroker("rediss://localhost", ca_certs=str(tmp_path / "no-ca.pem")))
    (tmp_path / "broken-ca.pem").write_text("not a certificate")
    with pytest.raises(ValueError, match="ca"):
        Hub(RedisBroker("rediss://localhost", ca_certs=str(tmp_path / "broken-ca.pem")))


@pytest.mark.parametrize(
    "url",
    [
        "localhost",
        "localhost:6379",
        "http://localhost:6379",
        "redis://",
        "redis://localhost:port",
        "redis://localhost:99999",
        "redis://localhost/events",
        "redis://localhost/-1",
        "kafka://localhost",
    ],
)
@pytest.mark.parametrize("make", [Hub, RedisBroker])
def test_an_address_that_is_none_is_said_at_once(url: str, make: Callable[[str], Any]) -> None:
    with pytest.raises(ValueError, match=r"redis://"):
        make(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel:",
        "redis+sentinel:é",
        "redis+sentinel://",
        "redis+sentinel://localhost",
        "redis+sentinel://localhost/",
        "redis+sentinel://localhost/service?db=-1",
        "redis+sentinel://localhost:port/service",
    ],
)
def test_an_address_of_sentinels_that_is_none_is_said_at_once(url: str) -> None:
    with pytest.raises(ValueError, match=r"redis\+sentinel://"):
        Hub(url)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("redis://münchen.example", "m%C3%BCnchen.example"),
        ("valkeys://m%C3%BCnchen.example/1", "m%C3%BCnchen.example"),
        ("redis+sentinel://münchen.example/service", "m%C3%BCnchen.example"),
        ("redis://%6cocalhost", "%6cocalhost"),
        ("redis://local%20host", "local%20host"),
    ],
)
def test_a_host_that_no_resolver_would_find_is_said_at_once(url: str, host: str) -> None:
    rule = re.escape(f"the host {host} must be plain ASCII without escapes (%): ")
    with pytest.raises(ValueError, match=f"{rule}.* Punycode, as xn--"):
        Hub(url)
    Hub("redis://xn--mnchen-3ya.example")


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+sentinel", "http", "redis+unix"])
@pytest.mark.parametrize("rest", ["localhost:port/0", "localhost/x/y", "[/0", "localhost/0?x=%zz"])
def test_an_address_that_is_none_does_not_show_its_password(scheme: str, rest: str) -> None:
    try:
        broker = RedisBroker(f"{scheme}://user:{ENCODED}@{rest}")
    except ValueError as error:
        shown = str(error)
    else:
        shown = repr(broker)
    assert PASSWORD not in shown
    assert ENCODED not in shown


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": -1.0},
        {"timeout": float("nan")},
        {"connect_timeout": 0},
        {"connect_timeout": float("inf")},
        {"prefix": "with{brace"},
        {"prefix": "with}brace"},
        {"prefix": ""},
        {"prefix": "two\nlines"},
    ],
)
def test_an_option_out_of_its_range_is_said_at_once(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=name):
        Hub(RedisBroker("redis://localhost", **options))


@pytest.mark.parametrize("name", ["", "with{brace", "two\nlines"])
def test_a_name_that_makes_no_key_is_said_at_once(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"^name must not be empty, or have braces or control characters in it"
    ):
        Hub("redis://localhost", name=name)


@pytest.mark.parametrize("broker", [1, b"redis://localhost", object()])
def test_a_broker_that_is_none_is_said_at_once(broker: Any) -> None:
    with pytest.raises(TypeError, match="broker"):
        Hub(broker)


def test_a_port_on_which_nobody_listens() -> None:
    began = time.monotonic()
    refused(RedisBroker("redis://127.0.0.1:1", timeout=0.5), "refused", "connect")
    assert time.monotonic() - began < promised(3)


def test_a_name_that_does_not_resolve() -> None:
    refused(RedisBroker("redis://no-such-host.invalid", timeout=1.0), "resolve", "lookup", "name", "connect")


def test_a_replica_that_only_reads_delivers_and_refuses_to_publish(redis: RedisServer, pair: Pair) -> None:
    redis.admin.config_set("repl-diskless-sync-delay", "0")  # five seconds otherwise
    replica_of = ("--replicaof", f"{HOST} {redis.port}")
    with RedisServer(*replica_of) as replica:
        until(lambda: replica.admin.info("replication")["master_link_status"] == "up")
        on_primary = pair.workers[0].hub(redis.url, pair.name)
        on_replica = pair.workers[1].hub(replica.url, pair.name)
        with listening(on_primary.listen(), on_replica.listen()) as clients:
            (outcome,) = on_replica.outcomes("refused")
            assert "error" in outcome, outcome
            assert "read" in outcome["error"].lower()
            on_primary.publish("accepted")
            takes(clients, ["accepted"])
            assert on_replica.state() == "connected"
            # Promoted, it takes publications without further ado.
            replica.admin.replicaof("NO", "ONE")
            assert on_replica.publish("promoted") == replica.ids(pair.name)[-1:]
            takes(clients[1:], ["promoted"])
