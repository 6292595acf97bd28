"""What many tests share."""

from __future__ import annotations

import pytest
from sse_hub.testing import Clock


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still, and makes hubs that run on it."""
    return Clock()
