"""What many tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest
from sse_hub.testing import Clock

pytest.register_assert_rewrite("redis_workers")

# The same cases in every run, so that one that fails does so for everybody.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")

if TYPE_CHECKING:
    from redis_server import RedisServer
    from redis_workers import Pair, Worker
    from wire import Site


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still, and makes hubs that run on it."""
    return Clock()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that take ``site`` run with each way to serve that their module names in ``SITES``."""
    if "module_site" in metafunc.fixturenames:
        metafunc.parametrize("module_site", metafunc.module.SITES, indirect=True, scope="module")


@pytest.fixture(scope="module")
def module_site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """One server for a module's tests."""
    from wire import Site

    site = Site(request.param)
    yield site
    site.close()


@pytest.fixture
def site(module_site: Site) -> Iterator[Site]:
    """The module's server, for one test: its hubs are closed with it, and nothing may complain."""
    from wire import quiet

    with quiet():
        yield module_site
        module_site.close_hubs()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A redis-server of the test's own."""
    from redis_server import RedisServer

    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def workers() -> Iterator[list[Worker]]:
    """Two uvicorn workers; tests make their hubs in them."""
    from redis_workers import workers

    with workers() as pair:
        yield pair


@pytest.fixture
def pair(workers: list[Worker]) -> Iterator[Pair]:
    """The two workers with a fresh name for a hub."""
    from redis_workers import Pair

    pair = Pair(workers)
    try:
        yield pair
    finally:
        pair.close()
