"""What the demo reads from its environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from pages import ROOT

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


@pytest.mark.parametrize(
    ("variable", "values", "rule"),
    [
        ("PORT", ["abc", "99999", "3.5"], "a whole number from 0 to 65535"),
        ("SSE_HUB_TICK", ["x", "0", "nan"], "a number of seconds from 0.001 to 3600"),
        ("SSE_HUB_RECONNECT", ["3", "3,1", "1,2,3", "a,b"], "two numbers of seconds .* with a comma between"),
    ],
)
def test_a_wrong_value_is_said_with_its_variable_and_the_rule(
    monkeypatch: pytest.MonkeyPatch, variable: str, values: list[str], rule: str
) -> None:
    for value in values:
        monkeypatch.setenv(variable, value)
        with pytest.raises(ValueError, match=f"^{variable} is {rule}, not '{value}'$"):
            Settings.from_environment()


def test_the_demo_says_a_wrong_value_in_one_line() -> None:
    command = [sys.executable, "-m", "examples.demo"]
    done = subprocess.run(
        command, env={**os.environ, "PORT": "abc"}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr == "sse-hub demo: PORT is a whole number from 0 to 65535, not 'abc'\n"
    assert done.returncode == 1
