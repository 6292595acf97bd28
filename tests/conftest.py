"""Fixtures that many rooms share, and the rule that no test is skipped on Linux."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest
from sse_hub.testing import Clock

pytest.register_assert_rewrite("redis_workers", "redis_outage")

# The same cases in every run, so that one that fails does so for everybody.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")

if TYPE_CHECKING:
    from file_server import FileServer
    from redis_server import RedisServer
    from redis_workers import Pair, Worker
    from wire import Site


@pytest.fixture
def clock() -> Clock:
    """A clock that only the test moves; ``clock.hub()`` makes hubs that run on it."""
    return Clock()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skipped test fails where every test can run: install the missing program instead."""
    report = yield
    if report.skipped and sys.platform == "linux":
        report.outcome = "failed"
        report.longrepr = f"skipped, although every test runs on Linux: {report.longrepr}"
    return report


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes ``site`` runs once with each way to serve that its module lists in ``SITES``."""
    if "module_site" in metafunc.fixturenames:
        metafunc.parametrize("module_site", metafunc.module.SITES, indirect=True, scope="module")


@pytest.fixture(scope="module")
def module_site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """The server that the tests of a module share."""
    from wire import Site

    site = Site(request.param)
    yield site
    site.close()


@pytest.fixture
def site(module_site: Site) -> Iterator[Site]:
    """The module's server for one test: its hubs close with the test, and a logged warning fails it."""
    from wire import quiet

    with quiet():
        yield module_site
        module_site.close_hubs()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A redis-server for this test alone."""
    from redis_server import RedisServer

    with RedisServer() as server:
        yield server


@pytest.fixture
def files() -> Iterator[FileServer]:
    """A directory for the hubs of one test."""
    from file_server import FileServer

    with FileServer() as files:
        yield files


@pytest.fixture(scope="session")
def workers() -> Iterator[list[Worker]]:
    """Two uvicorn workers, in which tests create their hubs."""
    from redis_workers import workers

    with workers() as pair:
        yield pair


@pytest.fixture
def pair(workers: list[Worker]) -> Iterator[Pair]:
    """The two workers, and a hub name that no other test uses."""
    from redis_workers import Pair

    pair = Pair(workers)
    try:
        yield pair
    finally:
        pair.close()
