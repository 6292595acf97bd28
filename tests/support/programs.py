"""Programs of their own, for what ends or forks a process."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from waiting import PATIENCE


def run_program(source: str) -> str:
    """The output of a program, which must end on its own, with 0, and write nothing to stderr."""
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-c", textwrap.dedent(source)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    return ended.stdout


OPEN_STREAM = """
    import asyncio, os, sys, threading, time
    from sse_hub import Hub
    from sse_hub.testing import connect

    hub = Hub(heartbeat=0.05)
    hub.on_connect(lambda subscription: None)
    hub.on_disconnect(lambda subscription, reason: None)
"""
