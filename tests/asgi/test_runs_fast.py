"""Events of a run that follow each other fast share wake-ups; none waits for one that never comes."""

from __future__ import annotations

from typing import Any

import pytest
from fast_runs import FastRuns, ends, is_stopped, waits
from wire import WAYS, Site

SITES = tuple(WAYS)
EVENTS = 500


@pytest.mark.parametrize(("then", "state"), [(ends, "done"), (is_stopped, "stopped")])
def test_all_of_a_run_comes_before_its_end(site: Site, then: Any, state: str) -> None:
    runs = FastRuns(site, EVENTS, then)
    with runs.watch() as stream:
        runs.begin.set()
        *events, end = stream.rest()
        assert [event.json() for event in events] == [*range(EVENTS)]
        assert end.json() == {"state": state}


def test_the_last_event_before_a_long_wait_arrives(site: Site) -> None:
    runs = FastRuns(site, EVENTS, waits)
    with runs.watch() as stream:
        runs.begin.set()
        assert stream.take(EVENTS) == [*range(EVENTS)]
