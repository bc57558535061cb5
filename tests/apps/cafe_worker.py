"""A gunicorn worker class that chooses its loop as uvicorn-worker's documentation shows it."""

from __future__ import annotations

from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker


class AioxideWorker(UvicornWorker):
    """uvicorn's worker on aioxide's loop."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "aioxide:new_event_loop",
        "http": "httptools",
    }
