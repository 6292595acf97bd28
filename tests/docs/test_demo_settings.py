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
