"""gunicorn's worker class for uvicorn with the hand-off, as gunicorn has no option for uvicorn's protocol."""

from __future__ import annotations

from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker


class HandingWorker(UvicornWorker):  # type: ignore[misc, unused-ignore]
    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {"http": "sse_hub.uvicorn:Protocol"}
