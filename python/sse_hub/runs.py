"""Runs: generators that a hub drives, and that any number of clients watch. They survive a reload.

::

    @app.post("/answers/{id}")
    async def ask(id: str, prompt: str):
        run = await hub.run(f"answer:{id}", answer, prompt)
        return run.response()

    @app.get("/answers/{id}")
    async def again(id: str):
        return hub.follow(f"answer:{id}")
"""

from sse_hub._runs.response import RunResponse
from sse_hub._runs.run import Run
from sse_hub._runs.states import RunFormat, RunState

__all__ = ["Run", "RunFormat", "RunResponse", "RunState"]
