"""Threads that nobody may be able to end. Imports nothing of ours."""

from __future__ import annotations

import threading


class WorkerThread(threading.Thread):
    """A daemon thread that can be abandoned: a thread cannot be ended from outside.

    Attributes:
        abandoned: nobody waits for it any more, and nothing that it holds is used again.
    """

    abandoned = False

    def __init__(self, target: object, name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)  # type: ignore[arg-type]


def is_abandoned(thread: threading.Thread | None = None) -> bool:
    """Whether a thread was abandoned; this one by default."""
    return getattr(thread or threading.current_thread(), "abandoned", False)


def abandoned_threads() -> list[threading.Thread]:
    """Those of this process that still run."""
    return [thread for thread in threading.enumerate() if is_abandoned(thread)]


__all__ = ["WorkerThread", "abandoned_threads", "is_abandoned"]
