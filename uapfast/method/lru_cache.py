"""What was made last, by what it was made for: a cache that forgets."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """At most ``most`` values; the one that was not wanted for longest goes first.

    Threads wait for each other, so that nothing is made twice.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._made: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of ``key``, made if it is not kept."""
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
            else:
                self._made[key] = make()
                while len(self._made) > self.most:
                    self._made.popitem(last=False)
            return self._made[key]


__all__ = ["LruCache"]
