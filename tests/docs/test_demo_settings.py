"""What the demo reads from its environment."""

from __future__ import annotations

import re

import pytest

from examples.demo import settings
from examples.demo.settings import Settings


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("file:events", "file:events"),
        ("file:///var/lib/events", "file:///var/lib/events"),
        ("redis://user:secret@localhost:6379/1", "redis://localhost:6379/1"),
        ("", None),
    ],
)
def test_the_brokers_address_is_shown_without_a_password(
    monkeypatch: pytest.MonkeyPatch, given: str, shown: str | None
) -> None:
    monkeypatch.setenv("SSE_HUB_BROKER", given)
    assert Settings.from_environment().shown_broker == shown


def test_a_variable_that_is_set_to_nothing_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    names = re.findall(r"^([A-Z_]+) ", settings.__doc__ or "", re.MULTILINE)
    assert {"PORT", "SSE_HUB_BROKER", "SSE_HUB_CROWD", "SSE_HUB_RECONNECT"} <= {*names}
    for name in names:
        monkeypatch.delenv(name, raising=False)
    expected = Settings.from_environment()
    for name in names:
        monkeypatch.setenv(name, "")
    assert Settings.from_environment() == expected


@pytest.mark.parametrize(
    ("environment", "streams"),
    [
        ({}, 1000),
        ({"HOST": "::1"}, 1000),
        ({"HOST": "0.0.0.0"}, 0),
        ({"HOST": "192.0.2.1"}, 0),
        ({"HOST": "0.0.0.0", "SSE_HUB_CROWD": "50"}, 50),
        ({"SSE_HUB_BROKER": "file:events"}, 0),
        ({"SSE_HUB_CROWD": "1000000"}, settings.MOST),
    ],
)
def test_the_card_of_costs_is_bounded_and_off_outside_of_loopback(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], streams: int
) -> None:
    for name in ("HOST", "SSE_HUB_CROWD", "SSE_HUB_BROKER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings.from_environment().crowd == streams
