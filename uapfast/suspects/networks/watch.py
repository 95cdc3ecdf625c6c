"""Time that suspects under way take, seen from outside the threads that they occupy."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator


class Watch:
    """Since when each thread is at what it does. Waiting for another thread does not count."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}

    def begin(self) -> None:
        """This thread begins anew."""
        self._since[threading.get_ident()] = time.monotonic()

    def since(self, thread: threading.Thread) -> float:
        """When it began; infinite while it waits."""
        return self._since.get(thread.ident or 0, math.inf)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """This thread waits for another, and begins anew after it."""
        self._since[threading.get_ident()] = math.inf
        try:
            yield
        finally:
            self.begin()


__all__ = ["Watch"]
