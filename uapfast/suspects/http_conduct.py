"""Conduct towards somebody else's server: what may be spent, how fast, and what was."""

from __future__ import annotations

import asyncio
import math
import re
import time
from dataclasses import dataclass, field

from uapfast.errors import InputError, UnavailableError

RATE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*(s|sec|second|min|minute|h|hour)\s*")
SECONDS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600}
MEGABYTES_16 = 16 * 2**20


MOST_ATTEMPTS, MOST_SECONDS = 1000, 3600.0


@dataclass(frozen=True)
class Conduct:
    """What is asked of a server at most.

    Attributes:
        budget: images sent at most, over the life of a suspect; a request for metadata counts as one. Every
            attempt counts, whatever comes of it. None is no limit.
        rate: requests, such as ``5/s``, ``100/min`` or 5 (a second); None is no limit.
        concurrency: requests under way at a time.
        timeout: seconds that one request may take, from connecting to the last byte.
        attempts: of one request, the first included.
        patience: seconds that a server may ask us to wait (Retry-After); more is ``unavailable``.
        max_bytes: of one response.

    Raises:
        InputError: out of range.
    """

    budget: int | None = None
    rate: str | float | None = None
    concurrency: int = 4
    timeout: float = 60.0
    attempts: int = 10
    patience: float = 120.0
    max_bytes: int = MEGABYTES_16

    def __post_init__(self) -> None:
        for name in ("concurrency", "attempts", "max_bytes"):
            _whole(name, getattr(self, name), 1)
        if self.attempts > MOST_ATTEMPTS:
            raise InputError("http", "attempts", f"at most {MOST_ATTEMPTS}", self.attempts)
        if self.budget is not None:
            _whole("budget", self.budget, 0)
        for name in ("timeout", "patience"):
            value = getattr(self, name)
            good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not good or not 0 < value <= MOST_SECONDS:
                raise InputError("http", name, f"seconds above 0, at most {MOST_SECONDS:g}", repr(value))
        self.interval  # noqa: B018, checks the rate

    @property
    def interval(self) -> float:
        """Seconds between requests."""
        rate, per = self.rate, 1
        if rate is None:
            return 0.0
        if isinstance(rate, str):
            found = RATE.fullmatch(rate)
            if found is None:
                raise InputError("http", "rate", "a rate such as 5/s or 100/min", repr(rate))
            rate, per = float(found[1]), SECONDS[found[2]]
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
            raise InputError(
                "http", "rate", "requests per second above 0, or text such as 5/s", repr(self.rate)
            )
        return per / rate


@dataclass
class Ledger:
    """What was sent so far.

    Attributes:
        budget: images at most, or None.
        queries: images sent; failures, retries and probes included.
        requests: sent, of every kind.
        failed: of these, what came to nothing.
        sent: bytes of bodies.
        received: bytes of bodies.
    """

    budget: int | None = None
    queries: int = 0
    requests: int = 0
    failed: int = 0
    sent: int = 0
    received: int = 0

    def allows(self, queries: int) -> bool:
        """Whether so many more may be sent."""
        return self.budget is None or self.queries + queries <= self.budget

    def spend(self, queries: int, size: int) -> None:
        """Count a request before it is sent.

        Raises:
            UnavailableError: it would exceed the budget; nothing is counted.
        """
        if not self.allows(queries):
            left = f"{self.queries} sent in {self.requests} requests, {self.failed} of which failed"
            raise UnavailableError(f"http: the budget of {self.budget} queries is spent ({left})")
        self.queries += queries
        self.requests += 1
        self.sent += size


@dataclass
class Pace:
    """When the next request may be sent.

    Attributes:
        interval: seconds between requests.
    """

    interval: float
    _next: float = field(default=0.0, init=False)

    async def turn(self) -> None:
        """Wait for it."""
        while True:
            now = time.monotonic()
            if now >= self._next:
                self._next = max(self._next, now - self.interval) + self.interval
                return
            await asyncio.sleep(self._next - now)

    def hold(self, seconds: float) -> None:
        """Nobody is sent anything for so long: the server asked for it."""
        self._next = max(self._next, time.monotonic() + seconds)


def _whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError("http", name, f"a whole number >= {least}", repr(value))


__all__ = ["Conduct", "Ledger", "Pace"]
