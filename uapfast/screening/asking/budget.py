"""Memory that weights on their way may take together."""

from __future__ import annotations

import os
import threading

from uapfast.suspects.networks.watch import Watch

LEAST = 4 << 30  # bytes


class MemoryBudget:
    """Memory for large weights on their way. Whoever finds it spent waits, unless nobody else has any of it.

    Args:
        watch: to be told of the waiting.
        buffers: that share it.
        most: bytes; a quarter of the machine's memory, and at least 4 GiB, by default.

    Attributes:
        share: bytes that each buffer may keep without asking.
    """

    def __init__(self, watch: Watch, buffers: int, most: int | None = None) -> None:
        self._watch, self._changed = watch, threading.Condition()
        self._held: dict[int, int] = {}
        self.most = most if most is not None else max(LEAST, _memory() // 4)
        self.share = self.most // buffers

    def reserve(self, who: int, count: int) -> None:
        """Reserve ``count`` bytes for ``who``, in place of what it had; waits until they are there."""
        with self._changed:
            self._held.pop(who, None)
            if not self._fits(count):
                with self._watch.waiting():
                    self._changed.wait_for(lambda: self._fits(count))
            self._held[who] = count

    def _fits(self, count: int) -> bool:
        return not self._held or sum(self._held.values()) + count <= self.most

    def release(self, who: int) -> None:
        """What ``who`` had is free again."""
        with self._changed:
            if self._held.pop(who, None) is not None:
                self._changed.notify_all()


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0


__all__ = ["MemoryBudget"]
