"""The event loops of the tests, by uvicorn's names and as classes; there is no uvloop for Windows."""

import asyncio
import sys

import pytest

if sys.platform == "win32":
    LOOPS = ["asyncio"]
    LOOP_TYPES: list[type[asyncio.AbstractEventLoop]] = [asyncio.ProactorEventLoop]
else:
    import uvloop

    LOOPS = ["asyncio", "uvloop"]
    LOOP_TYPES = [asyncio.SelectorEventLoop, uvloop.Loop]

on_each_loop = pytest.mark.parametrize("new_loop", LOOP_TYPES)
