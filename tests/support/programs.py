"""Programs of their own, for what ends or forks a process."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Sequence

from waiting import PATIENCE


def run_program(source: str) -> str:
    """The output of a program, which must end on its own, with 0, and write nothing to stderr."""
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-c", textwrap.dedent(source)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    return ended.stdout


# How many events the scripts of brokers publish.
COUNT = 2000


def run_script(source: str, url: str, *, code: int = 0, errors: Sequence[str] = ()) -> str:
    """The output of a program with this ``URL``, which must end on its own and print these ``errors``."""
    program = f"URL = {url!r}\nCOUNT = {COUNT}\n" + textwrap.dedent(source)
    # Python warns of every fork of a process with threads, which a broker has.
    strict = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    command = [sys.executable, "-X", "faulthandler", *strict, "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == code, ended.stderr
    for words in errors:
        assert words in ended.stderr, ended.stderr
    if not errors:
        assert ended.stderr == "", ended.stderr
    return ended.stdout


OPEN_STREAM = """
    import asyncio, os, sys, threading, time
    from sse_hub import Hub
    from sse_hub.testing import connect

    hub = Hub(heartbeat=0.05)
    hub.on_connect(lambda subscription: None)
    hub.on_disconnect(lambda subscription, reason: None)
"""
