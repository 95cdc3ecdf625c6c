"""The caller's side of a crew of workers: hire, send, hear, replace. Knows nothing of Ray either."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from uapfast.config import TIMEOUT
from uapfast.errors import ClusterError
from uapfast.screening.dispatch import Board
from uapfast.screening.engines import Done
from uapfast.screening.errands import Hello, Lost, News, Orders, Reply

log = logging.getLogger(__name__)


class Crew(Protocol):
    """Workers in other processes, by number. Each says ``Hello``, then one ``Reply`` to all orders."""

    def hire(self) -> int:
        """Start one more; returns its number at once."""

    def send(self, worker: int, orders: Orders) -> None:
        """Tell it; it is not sent to again before it replied."""

    def wait(self, seconds: float) -> list[tuple[int, News]]:
        """What has come, waiting so long for the first; nothing after a worker's ``Lost``."""

    def fire(self, worker: int) -> None:
        """Kill it, whatever it does."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited, in seconds.

    Attributes:
        start: for the first worker of all.
        silent: for a reply (a worker that lives replies every few seconds).
        suspect: for one suspect to be read or asked.
        fails: starts in a row that may fail, besides one for each worker.
    """

    start: float = 900.0
    silent: float = 90.0
    suspect: float = TIMEOUT
    fails: int = 3


class Shift:
    """One run of a board's suspects through a crew.

    Args:
        crew: of workers.
        board: what is to be done.
        workers: wanted.
        versions: that every worker must have.
        patience: with them.
        clock: seconds.
    """

    def __init__(
        self,
        crew: Crew,
        board: Board,
        workers: int,
        versions: str,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._crew, self._board, self._workers, self._versions = crew, board, workers, versions
        self._patience, self._clock = patience or Patience(), clock
        self._starting: dict[int, float] = {}
        self._idle: set[int] = set()
        self._busy: dict[int, float] = {}  # since when a reply is awaited
        self._fails, self._why = 0, ""

    def run(self) -> Iterator[Done]:
        """Every suspect's rows as they come.

        Raises:
            ClusterError: no worker can be started, or one has other versions.
        """
        for _ in range(self._board.peek(self._workers)):
            self._hire()
        while not self._board.over:
            for worker, news in self._crew.wait(1.0):
                if worker in self._starting or worker in self._busy:
                    yield from self._heed(worker, news)
            yield from self._silence()
            self._send()
            yield from self._board.settle()
            self._still_hope()

    def _hire(self) -> None:
        self._starting[self._crew.hire()] = self._clock()

    def _heed(self, worker: int, news: News) -> Iterator[Done]:
        if isinstance(news, Lost):
            yield from self._lose(worker, news.why)
        elif isinstance(news, Hello):
            self._check(news)
            log.info("screen: worker %d is process %d on %s", worker, news.process, news.host)
            del self._starting[worker]
            self._fails = 0
            self._board.join(worker)
            self._idle.add(worker)
        else:
            del self._busy[worker]
            self._idle.add(worker)
            yield from self._board.hear(worker, news.told)
            yield from self._endless(worker, news)

    def _check(self, hello: Hello) -> None:
        if _numbers(hello.versions) != _numbers(self._versions):
            raise ClusterError(
                f"screen: a worker's versions must be {self._versions} as here, got {hello.versions} "
                f"on {hello.host}"
            )

    def _endless(self, worker: int, reply: Reply) -> Iterator[Done]:
        """Give up suspects that take too long; a thread cannot be stopped, so the worker goes as well."""
        told = {t.number for t in reply.told}
        limit = self._patience.suspect
        late = [busy for busy in reply.at if busy.seconds > limit and busy.number not in told]
        for busy in late:
            yield from self._board.expire(worker, busy, limit)
        if late:
            yield from self._lose(worker, "a suspect without end", blame=False)

    def _lose(self, worker: int, why: str, blame: bool = True) -> Iterator[Done]:
        log.info("screen: worker %d is lost: %s", worker, why)
        self._crew.fire(worker)
        if self._starting.pop(worker, None) is not None:
            self._fails += 1
        self._idle.discard(worker)
        self._busy.pop(worker, None)
        self._why = why
        yield from self._board.lost(worker, why, blame)
        there = len(self._starting) + len(self._idle) + len(self._busy)
        if not self._board.over and there < self._workers:
            if self._fails < self._patience.fails + self._workers:
                self._hire()

    def _silence(self) -> Iterator[Done]:
        """Workers that neither reply nor die (one that holds the interpreter's lock, a cut-off node)."""
        latest = self._clock() - self._patience.silent
        for worker in [w for w, since in self._busy.items() if since < latest]:
            yield from self._lose(worker, f"no reply in {self._patience.silent:g} seconds")

    def _send(self) -> None:
        for worker in list(self._idle):
            orders = self._board.orders(worker)
            if orders is not None:
                self._idle.discard(worker)
                self._busy[worker] = self._clock()
                self._crew.send(worker, orders)

    def _still_hope(self) -> None:
        if self._busy or self._idle or self._board.over:
            return
        if not self._starting:
            raise ClusterError(f"screen: workers must be able to start, got: {self._why}")
        if min(self._clock() - since for since in self._starting.values()) > self._patience.start:
            raise ClusterError(
                "screen: the cluster must have room for one worker at least, got none in "
                f"{self._patience.start:g} seconds"
            )


def _numbers(versions: str) -> dict[str, str]:
    """Without what only tells builds of one version apart (``+cpu``, ``+cu130``)."""
    return {name: version.partition("+")[0] for name, version in json.loads(versions).items()}


__all__ = ["Crew", "Patience", "Shift"]
